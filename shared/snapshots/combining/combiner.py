"""The arithmetic of a reconstruction: every block of the inputs times the coefficients, added to every output."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

from phema.shared.snapshots.combining.aligned_inputs import Segment
from phema.shared.snapshots.combining.block_reader import ROWS, TILE, WRITERS, BlockSizes, InputBlock, padded_outputs
from phema.shared.snapshots.combining.thread_pool import ComputePool
from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, SnapshotMetadata, StoredDtype
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES
from phema.shared.snapshots.stores.hashed_bytes import Data


@dataclass(frozen=True)
class OutputSpec:
    """One file to write: its key, the coefficient of each snapshot, its metadata and the dtype of its averages."""

    key: str
    coefficients: Sequence[float]
    metadata: SnapshotMetadata
    dtype: StoredDtype = "float32"
    tensors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Coefficients by tensor name, for averaged tensors that do not use `coefficients` (paper, Figure 5b)."""

    def coefficients_of(self, tensor: str) -> tuple[float, ...]:
        return tuple(self.tensors.get(tensor, self.coefficients))


class OutputFile(Protocol):
    """Receives the bytes of one output."""

    def write(self, data: Data) -> None: ...


@dataclass(frozen=True)
class CoefficientRange:
    """Elements `start` to `stop` of a segment use one set of coefficients."""

    start: int
    stop: int
    set_index: int


class CoefficientSets:
    """The coefficients of all outputs of a pass. Tensors with equal coefficients share one set."""

    def __init__(self, specs: Sequence[OutputSpec], names: Sequence[str]) -> None:
        indices: dict[tuple[tuple[float, ...], ...], int] = {}
        self._set_of = {name: indices.setdefault(coefficients_of(specs, name), len(indices)) for name in names}
        sets = torch.zeros(max(len(indices), 1), padded_outputs(len(specs)), len(specs[0].coefficients))
        for coefficients, index in indices.items():
            sets[index, : len(specs)] = torch.tensor(coefficients)
        self._sets = [list(torch.split(rows, ROWS)) for rows in sets]

    def ranges(self, segment: Segment) -> list[CoefficientRange]:
        """The segment's elements, divided where the coefficients change."""
        starts = [(start, self._set_of[name]) for name, start in segment.tensors]
        changes = [starts[0], *(after for before, after in pairwise(starts) if before[1] != after[1])]
        stops = [start for start, _ in changes[1:]] + [segment.count]
        return [CoefficientRange(start, stop, index) for (start, index), stop in zip(changes, stops, strict=True)]

    def rows(self, set_index: int) -> Sequence[Tensor]:
        """The coefficients of a set: [ROWS, inputs] for each ROWS outputs."""
        return self._sets[set_index]


def coefficients_of(specs: Sequence[OutputSpec], tensor: str) -> tuple[tuple[float, ...], ...]:
    """The coefficients of each output for the tensor."""
    return tuple(spec.coefficients_of(tensor) for spec in specs)


class Combiner:
    """Computes the outputs of one pass: sums one block while the previous block is hashed and written.

    Tiles begin at fixed elements of a segment, and each is a matrix product of fixed shape. A tile in which the
    coefficients change is computed once for each set, and only the set's own columns are used. The other outputs of
    the pass therefore never change a bit of the result.
    """

    def __init__(
        self,
        specs: Sequence[OutputSpec],
        names: Sequence[str],
        sizes: BlockSizes,
        writers: Executor,
        compute: ComputePool,
    ) -> None:
        self._specs, self._writers, self._compute = specs, writers, compute
        self._coefficients = CoefficientSets(specs, names)
        shape = (sizes.block // TILE, padded_outputs(len(specs)) // ROWS, ROWS, TILE)
        self._sums = [torch.empty(shape) for _ in range(2)]
        self._tiles = [torch.empty(sizes.group, TILE) for _ in range(compute.count)]
        self._mixed = [torch.empty(ROWS, TILE) for _ in range(compute.count)]
        self._rows: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(min(WRITERS, len(specs))):
            self._rows.put(torch.empty(sizes.block * 4, dtype=torch.uint8))
        self._writes: list[Future[None]] = []

    def average(self, files: Sequence[OutputFile], segment: Segment, blocks: Iterator[InputBlock]) -> Iterator[int]:
        """Combine the blocks over all snapshots and start writing each sum; yields the bytes read by each block."""
        ranges = self._coefficients.ranges(segment)
        for block in blocks:
            sums = self._sums[0]
            self._add(block, sums, ranges)
            if block.last_group:
                self.finish_writes()
                self._writes = [
                    self._writers.submit(self._write, k, file, sums[:, k // ROWS, k % ROWS], block.count)
                    for k, file in enumerate(files)
                ]
                self._sums.reverse()
            yield block.bytes

    def copy(self, files: Sequence[OutputFile], blocks: Iterator[memoryview]) -> None:
        """Write blocks unchanged to every file."""
        self.finish_writes()
        for block in blocks:
            for file in files:
                file.write(block)

    def finish_writes(self) -> None:
        """Wait until the previous block is written. Raises the error of a write that failed."""
        writes, self._writes = self._writes, []
        for write in writes:
            write.result()

    def drain(self) -> None:
        """Wait until no write is running, and ignore errors."""
        wait(self._writes)

    def _add(self, block: InputBlock, sums: Tensor, ranges: Sequence[CoefficientRange]) -> None:
        """sums[tile, k, :] (+)= sum_i c[k, i] * values[i, tile], tile by tile, in float32."""
        beta = 0.0 if block.first == 0 else 1.0
        group = slice(block.first, block.first + sum(map(len, block.values)))
        in_block = _clipped(ranges, block.start, block.start + block.count)
        coefficients = {
            index: [rows[:, group] for rows in self._coefficients.rows(index)]
            for index in {part.set_index for part in in_block}
        }
        # All views are made here. Threads that make views compete for the interpreter lock longer than they compute.
        stored = list(zip(*(torch.split(values, TILE, dim=1) for values in block.values), strict=True))
        targets = [tile.unbind() for tile in sums[: len(stored)].unbind()]
        tiles = [[tile[rows] for rows in _tile_rows(block)] for tile in self._tiles]
        whole = [tile[: group.stop - group.start] for tile in self._tiles]

        def add_tile(thread: int, number: int) -> None:
            width = stored[number][0].shape[1]
            values, parts, target = whole[thread], tiles[thread], targets[number]
            if width < TILE:
                values, parts = values[:, :width], [part[:, :width] for part in parts]
                target = tuple(rows[:, :width] for rows in target)
            for part, source in zip(parts, stored[number], strict=True):
                part.copy_(source)
            in_tile = in_block if len(in_block) == 1 else _clipped(in_block, number * TILE, number * TILE + width)
            only = in_tile[0].set_index
            if all(piece.set_index == only for piece in in_tile):
                for rows, c in zip(target, coefficients[only], strict=True):
                    torch.addmm(rows, c, values, beta=beta, out=rows)
                return
            for index in dict.fromkeys(piece.set_index for piece in in_tile):
                for rows, c in zip(target, coefficients[index], strict=True):
                    mixed = self._mixed[thread][:, :width].copy_(rows)
                    torch.addmm(mixed, c, values, beta=beta, out=mixed)
                    for piece in in_tile:
                        if piece.set_index == index:
                            rows[:, piece.start : piece.stop] = mixed[:, piece.start : piece.stop]

        self._compute.run(add_tile, range(len(stored)))

    def _write(self, k: int, file: OutputFile, sums: Tensor, count: int) -> None:
        """Write output k's row of a block: the first `count` elements of `sums` [tiles, TILE]."""
        spec, buffer = self._specs[k], self._rows.get()
        try:
            code = DTYPE_CODES[spec.dtype]
            tiles = -(-count // TILE)
            row = buffer[: tiles * TILE * ITEM_BYTES[code]].view(TORCH_DTYPES[code])
            row.view(tiles, TILE).copy_(sums[:tiles])
            row = row[:count]
            if spec.dtype == "float16" and bool(row.isinf().any()):
                wide = sums[:tiles].reshape(-1)[:count]
                if bool((row.isinf() & wide.isfinite()).any()):
                    raise ValueError(f"{spec.key} has weights beyond float16's 65504; ask for float32")
            file.write(row.view(torch.uint8).numpy().data)
        finally:
            self._rows.put(buffer)


def _tile_rows(block: InputBlock) -> Iterator[slice]:
    """For each tensor of `block.values`, its rows in a tile."""
    start = 0
    for values in block.values:
        yield slice(start, start + len(values))
        start += len(values)


def _clipped(ranges: Sequence[CoefficientRange], start: int, stop: int) -> list[CoefficientRange]:
    """The parts of `ranges` between elements `start` and `stop`, counted from `start`."""
    first = bisect_right(ranges, start, key=lambda part: part.start) - 1
    last = bisect_left(ranges, stop, key=lambda part: part.start)
    return [
        CoefficientRange(max(part.start - start, 0), min(part.stop, stop) - start, part.set_index)
        for part in ranges[first:last]
    ]
