"""The arithmetic of a reconstruction: every block of the inputs, times the coefficients, into every output."""

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

from phema.shared.snapshots.combining.aligned_inputs import Span
from phema.shared.snapshots.combining.block_reader import ROWS, TILE, WRITERS, Sizes, Unit, padded
from phema.shared.snapshots.combining.thread_pool import Lanes
from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, SnapshotMetadata, StoredDtype
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES
from phema.shared.snapshots.stores.hashed_bytes import Data


@dataclass(frozen=True)
class OutputSpec:
    """One file to write: where, with which coefficient for each snapshot, what it says of itself, in which dtype."""

    key: str
    coefficients: Sequence[float]
    metadata: SnapshotMetadata
    dtype: StoredDtype = "float32"
    tensors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Coefficients of the averaged tensors, by name, that do not have `coefficients` (paper, Figure 5b)."""

    def of_tensor(self, name: str) -> tuple[float, ...]:
        return tuple(self.tensors.get(name, self.coefficients))


class Sink(Protocol):
    """Where the bytes of one output go."""

    def write(self, data: Data) -> None: ...


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a span have one set of coefficients."""

    start: int
    stop: int
    coefficients: int


class Coefficients:
    """What the outputs of a pass multiply each tensor of the inputs with. Tensors of equal coefficients share a set."""

    def __init__(self, specs: Sequence[OutputSpec], names: Sequence[str]) -> None:
        numbers: dict[tuple[tuple[float, ...], ...], int] = {}
        self._set_of = {name: numbers.setdefault(rows_of(specs, name), len(numbers)) for name in names}
        blocks = torch.zeros(max(len(numbers), 1), padded(len(specs)), len(specs[0].coefficients))
        for rows, number in numbers.items():
            blocks[number, : len(specs)] = torch.tensor(rows)
        self._blocks = [list(torch.split(block, ROWS)) for block in blocks]

    def pieces(self, span: Span) -> list[Piece]:
        """The span's elements, cut where the coefficients change."""
        starts = [(start, self._set_of[name]) for name, start in span.tensors]
        kept = [starts[0], *(after for before, after in pairwise(starts) if before[1] != after[1])]
        stops = [start for start, _ in kept[1:]] + [span.count]
        return [Piece(start, stop, number) for (start, number), stop in zip(kept, stops, strict=True)]

    def rows(self, number: int) -> Sequence[Tensor]:
        """The coefficients of a set, [ROWS, inputs] for each ROWS outputs."""
        return self._blocks[number]


def rows_of(specs: Sequence[OutputSpec], name: str) -> tuple[tuple[float, ...], ...]:
    """The coefficients that each output has for the tensor."""
    return tuple(spec.of_tensor(name) for spec in specs)


class Combiner:
    """The outputs of one pass: sums one block while the block before is hashed and written.

    Tiles begin at fixed elements of a span, and each is a product of fixed shape. A tile in which the coefficients
    change is made once for each set, and the set's own columns are kept: what else is asked for changes no bit.
    """

    def __init__(
        self, specs: Sequence[OutputSpec], names: Sequence[str], sizes: Sizes, pool: Executor, lanes: Lanes
    ) -> None:
        self._specs, self._pool, self._lanes = specs, pool, lanes
        self._coefficients = Coefficients(specs, names)
        shape = (sizes.block // TILE, padded(len(specs)) // ROWS, ROWS, TILE)
        self._sums = [torch.empty(shape) for _ in range(2)]
        self._tiles = [torch.empty(sizes.group, TILE) for _ in range(lanes.count)]
        self._mixed = [torch.empty(ROWS, TILE) for _ in range(lanes.count)]
        self._rows: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(min(WRITERS, len(specs))):
            self._rows.put(torch.empty(sizes.block * 4, dtype=torch.uint8))
        self._writes: list[Future[None]] = []

    def average(self, files: Sequence[Sink], span: Span, units: Iterator[Unit]) -> Iterator[int]:
        """Combine blocks over all snapshots and hand each on to be written; yields the bytes read, unit by unit."""
        pieces = self._coefficients.pieces(span)
        for unit in units:
            sums = self._sums[0]
            self._add(unit, sums, pieces)
            if unit.last_of_block:
                self.finish()
                self._writes = [
                    self._pool.submit(self._write, k, file, sums[:, k // ROWS, k % ROWS], unit.count)
                    for k, file in enumerate(files)
                ]
                self._sums.reverse()
            yield unit.bytes

    def copy(self, files: Sequence[Sink], blocks: Iterator[memoryview]) -> None:
        """Write blocks as they are."""
        self.finish()
        for block in blocks:
            for file in files:
                file.write(block)

    def finish(self) -> None:
        """Wait until the block before is written, and raise what went wrong with it."""
        writes, self._writes = self._writes, []
        for write in writes:
            write.result()

    def drain(self) -> None:
        """Wait until nobody writes any more, whatever happened."""
        wait(self._writes)

    def _add(self, unit: Unit, sums: Tensor, pieces: Sequence[Piece]) -> None:
        """sums[tile, k, :] (+)= sum_i c[k, i] * values[i, tile], tile by tile, in float32."""
        beta = 0.0 if unit.first == 0 else 1.0
        group = slice(unit.first, unit.first + sum(map(len, unit.values)))
        inside = _inside(pieces, unit.start, unit.start + unit.count)
        coefficients = {
            number: [rows[:, group] for rows in self._coefficients.rows(number)]
            for number in {piece.coefficients for piece in inside}
        }
        # Views are made here, once: threads that make them in turns wait for the interpreter more than they compute.
        stored = list(zip(*(torch.split(values, TILE, dim=1) for values in unit.values), strict=True))
        targets = [tile.unbind() for tile in sums[: len(stored)].unbind()]
        tiles = [[tile[rows] for rows in _rows_of(unit)] for tile in self._tiles]
        whole = [tile[: group.stop - group.start] for tile in self._tiles]

        def add(lane: int, number: int) -> None:
            width = stored[number][0].shape[1]
            values, parts, target = whole[lane], tiles[lane], targets[number]
            if width < TILE:
                values, parts = values[:, :width], [part[:, :width] for part in parts]
                target = tuple(rows[:, :width] for rows in target)
            for part, source in zip(parts, stored[number], strict=True):
                part.copy_(source)
            here = inside if len(inside) == 1 else _inside(inside, number * TILE, number * TILE + width)
            only = here[0].coefficients
            if all(piece.coefficients == only for piece in here):
                for rows, c in zip(target, coefficients[only], strict=True):
                    torch.addmm(rows, c, values, beta=beta, out=rows)
                return
            for wanted in dict.fromkeys(piece.coefficients for piece in here):
                for rows, c in zip(target, coefficients[wanted], strict=True):
                    mixed = self._mixed[lane][:, :width].copy_(rows)
                    torch.addmm(mixed, c, values, beta=beta, out=mixed)
                    for piece in here:
                        if piece.coefficients == wanted:
                            rows[:, piece.start : piece.stop] = mixed[:, piece.start : piece.stop]

        self._lanes.run(add, range(len(stored)))

    def _write(self, k: int, file: Sink, sums: Tensor, count: int) -> None:
        """Write one output's row of a block, `sums` [tiles, TILE], of which `count` elements are meant."""
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


def _rows_of(unit: Unit) -> Iterator[slice]:
    """Where in a tile the snapshots that are stored alike belong."""
    start = 0
    for values in unit.values:
        yield slice(start, start + len(values))
        start += len(values)


def _inside(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """The pieces of elements `start` to `stop`, counted from `start`."""
    first = bisect_right(pieces, start, key=lambda piece: piece.start) - 1
    last = bisect_left(pieces, stop, key=lambda piece: piece.start)
    return [Piece(max(p.start - start, 0), min(p.stop, stop) - start, p.coefficients) for p in pieces[first:last]]
