"""Reads many snapshots block by block into fixed buffers, the next block while the current one is combined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from phema.shared.snapshots.combining.aligned_inputs import Inputs, Span
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES
from phema.shared.snapshots.stores.interface import ObjectStore

TILE = 4096
"""Elements combined by one matrix product; its operands stay in a core's cache."""
GROUP = 32
"""Snapshots combined by one matrix product."""
ROWS = 8
"""Outputs made by one matrix product; missing ones are rows of zeros. The shape of a product decides the order of its
sums: TILE, GROUP and ROWS are fixed so that no setting changes a bit of the result."""
SLOTS = 2
"""Buffers of GROUP blocks: one is being combined while the next is being filled."""
WRITERS = 4
"""Outputs that are hashed and written at once."""


@dataclass(frozen=True)
class Sizes:
    """What a memory bound allows. `block` elements of each snapshot are read at a time, a multiple of TILE."""

    block: int
    group: int
    outputs: int
    """Outputs of one pass."""

    @staticmethod
    def within(
        memory_bytes: int,
        store: ObjectStore,
        *,
        inputs: int,
        outputs: int,
        item_bytes: int,
        lanes: int,
        coefficient_sets: int,
    ) -> Sizes:
        """The largest useful sizes. Raises ValueError when not even one output and the smallest block fit."""
        group = min(GROUP, inputs)
        per_lane = (group + ROWS) * TILE * 4
        workspace = lanes * per_lane + store.reads_in_flight * store.read_memory_bytes
        per_block = SLOTS * group * item_bytes

        def fixed(count: int) -> int:
            return workspace + count * store.writer_memory_bytes + coefficient_sets * padded(count) * inputs * 4

        for count in range(outputs, 0, -1):
            block = (memory_bytes - fixed(count)) // (per_block + output_bytes(count)) // TILE * TILE
            if block > 0:
                largest = -(-store.read_bytes // item_bytes // TILE) * TILE
                return Sizes(min(block, largest), group, count)
        least = fixed(1) + TILE * (per_block + output_bytes(1))
        raise ValueError(
            f"memory_bytes {memory_bytes} is too little for {inputs} snapshots; at least {least} is needed"
        )


def padded(outputs: int) -> int:
    """Rows of sums for so many outputs."""
    return -(-outputs // ROWS) * ROWS


def output_bytes(outputs: int) -> int:
    """Per element of a block: float32 sums twice, to write one meanwhile, and a row of bytes for each writer, which
    may have to look for infinities in it."""
    return 2 * 4 * padded(outputs) + (4 + 2) * min(WRITERS, outputs)


@dataclass(frozen=True)
class Unit:
    """One block of one group of snapshots, valid until the next unit."""

    first: int
    """Index of the group's first snapshot."""
    start: int
    """Index of the block's first element in its span."""
    count: int
    values: tuple[Tensor, ...]
    """Snapshots that follow each other and are stored alike: [some, count] each, together [group, count]."""
    last_of_block: bool

    @property
    def bytes(self) -> int:
        return sum(values.numel() * values.element_size() for values in self.values)


class BlockReader:
    """Fills two sets of buffers in turn, each by several ranged reads at once."""

    def __init__(self, store: ObjectStore, inputs: Inputs, sizes: Sizes, item_bytes: int, readers: Executor) -> None:
        self._store, self.inputs, self._sizes, self._readers = store, inputs, sizes, readers
        shape = (sizes.group, sizes.block * item_bytes)
        self._slots = [torch.empty(shape, dtype=torch.uint8) for _ in range(SLOTS)]
        self._rows = [[memoryview(row).cast("B") for row in slot.numpy()] for slot in self._slots]

    def units(self, span: Span, begin: int) -> Iterator[Unit]:
        """Every block of the span from element `begin` on, and of each block every group."""
        pending: deque[tuple[Unit, list[Future[None]]]] = deque()
        for number, (start, count, first) in enumerate(self._order(span, begin)):
            if len(pending) == SLOTS:
                yield _filled(*pending.popleft())
            slot = number % SLOTS
            snapshots = range(first, min(first + self._sizes.group, len(self.inputs.snapshots)))
            reads = [self._part(span, i, start, count, self._rows[slot][i - first]) for i in snapshots]
            tasks = min(self._store.reads_in_flight, len(reads))
            futures = [self._readers.submit(self._read, reads[i::tasks]) for i in range(tasks)]
            last = snapshots.stop == len(self.inputs.snapshots)
            pending.append((Unit(first, start, count, self._values(span, slot, snapshots, count), last), futures))
        while pending:
            yield _filled(*pending.popleft())

    def copied(self, span: Span) -> Iterator[memoryview]:
        """The span's bytes in the last snapshot, in blocks that are valid until the next."""
        last = len(self.inputs.snapshots) - 1
        item = span.item_bytes(self.inputs.layout_of[last])
        step = self._slots[0].shape[1] // item
        for start in range(0, span.count, step):
            part = self._part(span, last, start, min(step, span.count - start), self._rows[0][0])
            self._read([part])
            yield part[2]

    def _order(self, span: Span, begin: int) -> Iterator[tuple[int, int, int]]:
        for start in range(begin, span.count, self._sizes.block):
            for first in range(0, len(self.inputs.snapshots), self._sizes.group):
                yield start, min(self._sizes.block, span.count - start), first

    def _part(self, span: Span, snapshot: int, start: int, count: int, row: memoryview) -> tuple[int, int, memoryview]:
        """Which snapshot to read, from which byte of it on, to where."""
        layout = self.inputs.layout_of[snapshot]
        item = span.item_bytes(layout)
        offset = self.inputs.data_starts[snapshot] + span.places[layout].start + start * item
        return snapshot, offset, row[: count * item]

    def _values(self, span: Span, slot: int, snapshots: range, count: int) -> tuple[Tensor, ...]:
        values = []
        for dtype, alike in groupby(snapshots, lambda i: span.places[self.inputs.layout_of[i]].dtype):
            rows = list(alike)
            buffer = self._slots[slot][rows[0] - snapshots.start : rows[-1] - snapshots.start + 1]
            values.append(buffer.view(TORCH_DTYPES[dtype])[:, :count])
        return tuple(values)

    def _read(self, parts: list[tuple[int, int, memoryview]]) -> None:
        for snapshot, offset, row in parts:
            self._store.read_into(self.inputs.snapshots[snapshot].key, offset, row)


def _filled(unit: Unit, futures: list[Future[None]]) -> Unit:
    for future in futures:
        future.result()
    return unit
