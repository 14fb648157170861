"""Reads many snapshots block by block into fixed buffers, the next block while the current one is combined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.snapshots.file import TORCH_DTYPES
from shared.snapshots.header import ITEM_BYTES
from shared.snapshots.spans import Inputs, Span
from shared.snapshots.store import ObjectStore

TILE = 4096
"""Elements combined by one matrix product; its operands stay in a core's cache."""
GROUP = 32
"""Snapshots combined by one matrix product."""
ROWS = 8
"""Outputs made by one matrix product; missing ones are rows of zeros. The shape of a product decides the order of its
sums: TILE, GROUP and ROWS are fixed so that no setting changes a bit of the result."""
SLOTS = 2
"""Buffers of GROUP blocks: one is being combined while the next is being filled."""


@dataclass(frozen=True)
class Sizes:
    """What a memory bound allows. `block` elements of each snapshot are read at a time, a multiple of TILE."""

    block: int
    group: int
    outputs: int
    """Outputs of one pass."""

    @staticmethod
    def within(
        memory_bytes: int, store: ObjectStore, *, inputs: int, outputs: int, item_bytes: int, lanes: int
    ) -> Sizes:
        """The largest useful sizes. Raises ValueError when not even one output and the smallest block fit."""
        group = min(GROUP, inputs)
        workspace = lanes * group * TILE * 4 + store.reads_in_flight * store.read_memory_bytes
        per_block = SLOTS * group * item_bytes
        for count in range(outputs, 0, -1):
            room = memory_bytes - workspace - count * store.writer_memory_bytes
            block = room // (per_block + output_bytes(count)) // TILE * TILE
            if block > 0:
                largest = -(-store.read_bytes // item_bytes // TILE) * TILE
                return Sizes(min(block, largest), group, count)
        least = workspace + store.writer_memory_bytes + TILE * (per_block + output_bytes(1))
        raise ValueError(
            f"memory_bytes {memory_bytes} is too little for {inputs} snapshots; at least {least} is needed"
        )


def padded(outputs: int) -> int:
    """Rows of sums for so many outputs."""
    return -(-outputs // ROWS) * ROWS


def output_bytes(outputs: int) -> int:
    """Per element of a block: float32 sums twice, to write one meanwhile, and a copy of each in a narrower dtype."""
    return 2 * 4 * padded(outputs) + 2 * outputs


@dataclass(frozen=True)
class Unit:
    """One block of one group of snapshots. `values`: [group, count] in the stored dtype, valid until the next unit."""

    first: int
    """Index of the group's first snapshot."""
    count: int
    values: Tensor
    last_of_block: bool


class BlockReader:
    """Fills two sets of buffers in turn, each by several ranged reads at once."""

    def __init__(self, store: ObjectStore, inputs: Inputs, sizes: Sizes, item_bytes: int, readers: Executor) -> None:
        self._store, self.inputs, self._sizes, self._readers = store, inputs, sizes, readers
        shape = (sizes.group, sizes.block * item_bytes)
        self._slots = [torch.empty(shape, dtype=torch.uint8) for _ in range(SLOTS)]
        self._rows = [[memoryview(row).cast("B") for row in slot.numpy()] for slot in self._slots]

    def units(self, span: Span) -> Iterator[Unit]:
        """Every block of the span, and of each block every group."""
        pending: deque[tuple[Unit, list[Future[None]]]] = deque()
        for number, (start, count, first) in enumerate(self._order(span)):
            if len(pending) == SLOTS:
                yield _filled(*pending.popleft())
            slot = number % SLOTS
            snapshots = range(first, min(first + self._sizes.group, len(self.inputs.snapshots)))
            offset, length = span.start + start * ITEM_BYTES[span.dtype], count * ITEM_BYTES[span.dtype]
            reads = [(i, self._rows[slot][i - first][:length]) for i in snapshots]
            tasks = min(self._store.reads_in_flight, len(reads))
            futures = [self._readers.submit(self._read, reads[i::tasks], offset) for i in range(tasks)]
            values = self._slots[slot].view(TORCH_DTYPES[span.dtype])[: len(reads), :count]
            pending.append((Unit(first, count, values, snapshots.stop == len(self.inputs.snapshots)), futures))
        while pending:
            yield _filled(*pending.popleft())

    def copied(self, span: Span) -> Iterator[memoryview]:
        """The span's bytes in the last snapshot, in blocks that are valid until the next."""
        last = len(self.inputs.snapshots) - 1
        step = self._slots[0].shape[1]
        for start in range(0, span.bytes, step):
            row = self._rows[0][0][: min(step, span.bytes - start)]
            self._read([(last, row)], span.start + start)
            yield row

    def _order(self, span: Span) -> Iterator[tuple[int, int, int]]:
        for start in range(0, span.count, self._sizes.block):
            for first in range(0, len(self.inputs.snapshots), self._sizes.group):
                yield start, min(self._sizes.block, span.count - start), first

    def _read(self, reads: list[tuple[int, memoryview]], offset: int) -> None:
        for index, row in reads:
            self._store.read_into(self.inputs.snapshots[index].key, self.inputs.data_starts[index] + offset, row)


def _filled(unit: Unit, futures: list[Future[None]]) -> Unit:
    for future in futures:
        future.result()
    return unit
