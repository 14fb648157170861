"""Reads many snapshots block by block into fixed buffers; the next block is read while the current one is combined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from phema.shared.snapshots.combining.aligned_inputs import AlignedInputs, Segment
from phema.shared.snapshots.combining.input_hash import InputHash
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES
from phema.shared.snapshots.stores.interface import RangedReader

TILE = 4096
"""Elements combined by one matrix product; its operands stay in a core's cache."""
GROUP = 32
"""Snapshots combined by one matrix product."""
ROWS = 8
"""Outputs made by one matrix product; missing outputs are rows of zeros. The shape of a product decides the order of
its sums. TILE, GROUP and ROWS are constants so that no setting changes a bit of the result."""
SLOTS = 2
"""Buffers of GROUP blocks: one is combined while the other is filled."""
WRITERS = 4
"""Outputs that are hashed and written at the same time."""


@dataclass(frozen=True)
class BlockSizes:
    """Sizes that fit a memory bound."""

    block: int
    """Elements of each snapshot that are read at a time, a multiple of TILE."""
    group: int
    """Snapshots that are read at a time."""
    outputs: int
    """Outputs of one pass."""

    @staticmethod
    def within(
        memory_bytes: int,
        store: RangedReader,
        *,
        inputs: int,
        outputs: int,
        item_bytes: int,
        threads: int,
        coefficient_sets: int,
        writer_memory_bytes: int,
    ) -> BlockSizes:
        """The largest useful sizes. Raises ValueError when not even one output and the smallest block fit."""
        group = min(GROUP, inputs)
        per_thread = (group + ROWS) * TILE * 4
        workspace = threads * per_thread + store.reads_in_flight * store.read_memory_bytes
        per_element = SLOTS * group * item_bytes

        def fixed(count: int) -> int:
            return workspace + count * writer_memory_bytes + coefficient_sets * padded_outputs(count) * inputs * 4

        for count in range(outputs, 0, -1):
            block = (memory_bytes - fixed(count)) // (per_element + output_bytes_per_element(count)) // TILE * TILE
            if block > 0:
                largest = -(-store.read_bytes // item_bytes // TILE) * TILE
                return BlockSizes(min(block, largest), group, count)
        least = fixed(1) + TILE * (per_element + output_bytes_per_element(1))
        raise ValueError(
            f"memory_bytes {memory_bytes} is too little for {inputs} snapshots; at least {least} is needed"
        )


def padded_outputs(outputs: int) -> int:
    """The number of outputs, rounded up to a multiple of ROWS."""
    return -(-outputs // ROWS) * ROWS


def output_bytes_per_element(outputs: int) -> int:
    """Memory for the outputs per element of a block.

    Float32 sums twice, because one block is written while the next is summed, and for each writer a row of up to
    4 bytes and the 2 bytes of masks that find infinities in it.
    """
    return 2 * 4 * padded_outputs(outputs) + (4 + 2) * min(WRITERS, outputs)


@dataclass(frozen=True)
class InputBlock:
    """One block of elements from one group of snapshots, valid until the next InputBlock is read."""

    first: int
    """Index of the group's first snapshot."""
    start: int
    """Index of the block's first element in its segment."""
    count: int
    """Elements of the block."""
    values: tuple[Tensor, ...]
    """[snapshots, count] for each sequence of snapshots with the same dtype; together they make the group."""
    last_group: bool
    """Whether this is the last group of snapshots for these elements."""

    @property
    def bytes(self) -> int:
        return sum(values.numel() * values.element_size() for values in self.values)


class _ReadRequest(NamedTuple):
    snapshot: int
    offset: int
    """Of the first byte in the snapshot's file."""
    row: memoryview
    """Where the bytes go, and free space after them."""
    length: int


class BlockReader:
    """Fills SLOTS buffers in turn, each by several concurrent ranged reads, and hashes what it reads.

    Everything read after `begin_pass` is verified by `check_inputs`, which must be called before the pass commits.
    """

    def __init__(
        self, store: RangedReader, inputs: AlignedInputs, sizes: BlockSizes, item_bytes: int, readers: Executor
    ) -> None:
        self._store, self.inputs, self._sizes, self._readers = store, inputs, sizes, readers
        shape = (sizes.group, sizes.block * item_bytes)
        self._slots = [torch.empty(shape, dtype=torch.uint8) for _ in range(SLOTS)]
        self._rows = [[memoryview(row).cast("B") for row in slot.numpy()] for slot in self._slots]
        self._hashes: list[InputHash] = []
        self.begin_pass()

    def begin_pass(self) -> None:
        """Forget the hashes of the previous pass."""
        self._hashes = [begun.copy() for begun in self.inputs.hashes]

    def check_inputs(self) -> None:
        """Raise CorruptObject unless every input holds the bytes that were written.

        Reads the bytes of the inputs that the pass has not read.
        """
        tasks = min(self._store.reads_in_flight, len(self._rows[0]))
        list(self._readers.map(self._check, (self._hashes[i::tasks] for i in range(tasks)), self._rows[0]))

    def _check(self, hashes: Sequence[InputHash], buffer: memoryview) -> None:
        for begun in hashes:
            begun.check(self._store, buffer)

    def blocks(self, segment: Segment, begin: int, end: int) -> Iterator[InputBlock]:
        """Every block of the segment's elements `begin` to `end`; for each block, every group of snapshots."""
        pending: deque[tuple[InputBlock, list[Future[None]]]] = deque()
        latest: dict[int, list[Future[None]]] = {}
        for number, (start, count, first) in enumerate(self._block_order(begin, end)):
            if len(pending) == SLOTS:
                yield _wait_until_filled(*pending.popleft())
            slot = number % SLOTS
            snapshots = range(first, min(first + self._sizes.group, len(self.inputs.snapshots)))
            reads = [self._request(segment, i, start, count, self._rows[slot][i - first]) for i in snapshots]
            tasks = min(self._store.reads_in_flight, len(reads))
            before = latest.get(first, [None] * tasks)
            futures = [self._readers.submit(self._read, reads[i::tasks], before[i]) for i in range(tasks)]
            latest[first] = futures
            last = snapshots.stop == len(self.inputs.snapshots)
            values = self._views(segment, slot, snapshots, count)
            pending.append((InputBlock(first, start, count, values, last), futures))
        while pending:
            yield _wait_until_filled(*pending.popleft())

    def last_snapshot_bytes(self, segment: Segment) -> Iterator[memoryview]:
        """The segment's bytes in the last snapshot, in parts that are valid until the next part is read."""
        last = len(self.inputs.snapshots) - 1
        item = segment.item_bytes(self.inputs.layout_of[last])
        step = self._slots[0].shape[1] // item
        for start in range(0, segment.count, step):
            request = self._request(segment, last, start, min(step, segment.count - start), self._rows[0][0])
            self._read([request], None)
            yield request.row[: request.length]

    def _block_order(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """First element, number of elements and first snapshot of each InputBlock."""
        for start in range(begin, end, self._sizes.block):
            for first in range(0, len(self.inputs.snapshots), self._sizes.group):
                yield start, min(self._sizes.block, end - start), first

    def _request(self, segment: Segment, snapshot: int, start: int, count: int, row: memoryview) -> _ReadRequest:
        layout = self.inputs.layout_of[snapshot]
        item = segment.item_bytes(layout)
        offset = self.inputs.data_starts[snapshot] + segment.locations[layout].start + start * item
        return _ReadRequest(snapshot, offset, row, count * item)

    def _views(self, segment: Segment, slot: int, snapshots: range, count: int) -> tuple[Tensor, ...]:
        """Typed views of the slot's buffer, one for each sequence of snapshots with the same dtype."""
        views = []
        for dtype, same_dtype in groupby(snapshots, lambda i: segment.locations[self.inputs.layout_of[i]].dtype):
            rows = list(same_dtype)
            buffer = self._slots[slot][rows[0] - snapshots.start : rows[-1] - snapshots.start + 1]
            views.append(buffer.view(TORCH_DTYPES[dtype])[:, :count])
        return tuple(views)

    def _read(self, requests: list[_ReadRequest], before: Future[None] | None) -> None:
        """Read blocks of different snapshots and hash them.

        `before`: the task that reads the previous blocks of the same snapshots, which are hashed first. It started
        earlier, so waiting for it ends. None: bytes before these blocks may not have been read.
        """
        for snapshot, offset, row, length in requests:
            begun, block = self._hashes[snapshot], row[:length]
            if before is None:
                begun.read_up_to(self._store, offset, row)
            self._store.read_into(self.inputs.snapshots[snapshot].key, offset, block)
            if before is not None:
                before.result()
            begun.add(offset, block)


def _wait_until_filled(block: InputBlock, futures: list[Future[None]]) -> InputBlock:
    for future in futures:
        future.result()
    return block
