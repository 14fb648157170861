"""Combines stored snapshots into new weights: one streaming pass for all wanted profiles, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.snapshots.file import TORCH_DTYPES
from shared.snapshots.header import DTYPE_CODES, ITEM_BYTES, SnapshotMetadata, StoredDtype, build_header
from shared.snapshots.lanes import Lanes, lanes_of_torch, pool_of
from shared.snapshots.plan import StoredSnapshot
from shared.snapshots.spans import read_inputs
from shared.snapshots.store import ObjectInfo, ObjectStore, ObjectWriter
from shared.snapshots.streaming import ROWS, TILE, BlockReader, Sizes, Unit, padded

_WRITERS = 4


class ReconstructionCancelled(Exception):
    """`cancelled` answered yes; nothing was kept."""


@dataclass(frozen=True)
class OutputSpec:
    """One file to write: where, with which coefficient for each snapshot, what it says of itself, in which dtype."""

    key: str
    coefficients: Sequence[float]
    metadata: SnapshotMetadata
    dtype: StoredDtype = "float32"


def reconstruct(
    store: ObjectStore,
    inputs: Sequence[StoredSnapshot],
    outputs: Sequence[OutputSpec],
    *,
    memory_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[ObjectInfo]:
    """Write sum_i c_i * snapshot_i for every output; accumulation in float32 (paper, Algorithm 3 and section C).

    `inputs` are in order of time. Buffers (Fourier frequencies, integers) are copied from the last. All outputs come
    from one pass over the inputs; only when their upload buffers alone exceed `memory_bytes` are there more passes.
    `memory_bytes` bounds every buffer held, whatever the number and size of the snapshots; it never changes a bit of
    the result. `progress(done, total)` counts bytes read and is called from this thread, as is `cancelled`.

    Raises ValueError for a bound that is too small or coefficients that do not match, ReconstructionCancelled,
    CorruptObject for a truncated or foreign snapshot, and the store's other errors. Nothing is kept after an error.
    """
    _check(inputs, outputs)
    committed: dict[str, ObjectInfo] = {}
    with ExitStack() as stack:
        readers = stack.enter_context(pool_of(store.reads_in_flight, "reconstruct-read"))
        writers = stack.enter_context(pool_of(min(_WRITERS, len(outputs)), "reconstruct-write"))
        lanes = stack.enter_context(lanes_of_torch())
        found = read_inputs(store, inputs, readers)
        item_bytes = max((ITEM_BYTES[span.dtype] for span in found.spans() if span.averaged), default=4)
        counts = {"inputs": len(inputs), "outputs": len(outputs), "lanes": lanes.count}
        sizes = Sizes.within(memory_bytes, store, **counts, item_bytes=item_bytes)
        passes = [outputs[i : i + sizes.outputs] for i in range(0, len(outputs), sizes.outputs)]
        watch = _Watch(
            sum(s.bytes for s in found.spans() if s.averaged) * len(inputs) * len(passes), progress, cancelled
        )
        reader = BlockReader(store, found, sizes, item_bytes, readers)
        try:
            for specs in passes:
                _one_pass(store, specs, reader, _Combiner(specs, sizes, writers, lanes), watch, committed)
        except BaseException:
            for key in committed:
                store.delete(key)
            raise
    return [committed[spec.key] for spec in outputs]


@dataclass
class _Watch:
    """Reports progress and asks whether to go on, between blocks."""

    total: int
    progress: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    done: int = 0

    def advance(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total)
        if self.cancelled():
            raise ReconstructionCancelled("the reconstruction was cancelled; nothing was kept")


def _one_pass(
    store: ObjectStore,
    specs: Sequence[OutputSpec],
    reader: BlockReader,
    combiner: _Combiner,
    watch: _Watch,
    committed: dict[str, ObjectInfo],
) -> None:
    """Stream every span into the outputs; leaving the block commits them, or leaves none of those still open."""
    with ExitStack() as stack:
        files = [stack.enter_context(_recorded(store, spec.key, committed)) for spec in specs]
        stack.callback(combiner.drain)  # runs before the files are closed
        for spec, file in zip(specs, files, strict=True):
            file.write(build_header(spec.metadata, reader.inputs.arranged(spec.dtype)))
        for span in reader.inputs.spans():
            if span.averaged:
                combiner.average(files, reader.units(span), watch)
            else:
                combiner.copy(files, reader.copied(span))
        combiner.finish()


class _Combiner:
    """The outputs of one pass: sums one block while the block before is hashed and written."""

    def __init__(self, specs: Sequence[OutputSpec], sizes: Sizes, pool: Executor, lanes: Lanes) -> None:
        self._specs, self._pool, self._lanes = specs, pool, lanes
        rows = padded(len(specs))
        self._coefficients = torch.zeros(rows, len(specs[0].coefficients))
        self._coefficients[: len(specs)] = torch.tensor([list(spec.coefficients) for spec in specs])
        self._sums = [torch.empty(rows, sizes.block) for _ in range(2)]
        self._tiles = [torch.empty(sizes.group, TILE) for _ in range(lanes.count)]
        self._narrow = {
            k: torch.empty(sizes.block, dtype=TORCH_DTYPES[DTYPE_CODES[spec.dtype]])
            for k, spec in enumerate(specs)
            if spec.dtype != "float32"
        }
        self._writes: list[Future[None]] = []

    def average(self, files: Sequence[ObjectWriter], units: Iterator[Unit], watch: _Watch) -> None:
        """Combine blocks over all snapshots and hand each on to be written."""
        for unit in units:
            sums = self._sums[0]
            self._add(unit, sums)
            if unit.last_of_block:
                self.finish()
                rows = enumerate(zip(files, sums[: len(files), : unit.count], strict=True))
                self._writes = [self._pool.submit(self._write, k, file, row) for k, (file, row) in rows]
                self._sums.reverse()
            watch.advance(unit.values.numel() * unit.values.element_size())

    def copy(self, files: Sequence[ObjectWriter], blocks: Iterator[memoryview]) -> None:
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

    def _add(self, unit: Unit, sums: Tensor) -> None:
        """sums[k, :] (+)= sum_i c[k, i] * values[i, :], tile by tile, in float32."""
        coefficients = self._coefficients[:, unit.first : unit.first + unit.values.shape[0]]
        beta = 0.0 if unit.first == 0 else 1.0

        def add(lane: int, start: int) -> None:
            values = unit.values[:, start : start + TILE]
            if values.dtype != torch.float32:
                values = self._tiles[lane][: values.shape[0], : values.shape[1]].copy_(values)
            for row in range(0, len(sums), ROWS):
                target = sums[row : row + ROWS, start : start + values.shape[1]]
                torch.addmm(target, coefficients[row : row + ROWS], values, beta=beta, out=target)

        self._lanes.run(add, range(0, unit.count, TILE))

    def _write(self, k: int, file: ObjectWriter, values: Tensor) -> None:
        if k in self._narrow:
            narrow = self._narrow[k][: len(values)].copy_(values)
            if self._specs[k].dtype == "float16" and bool((narrow.isinf() & values.isfinite()).any()):
                raise ValueError(f"{self._specs[k].key} has weights beyond float16's 65504; ask for float32")
            values = narrow
        file.write(values.view(torch.uint8).numpy().data)


@contextmanager
def _recorded(store: ObjectStore, key: str, committed: dict[str, ObjectInfo]) -> Iterator[ObjectWriter]:
    with store.writer(key) as file:
        yield file
    committed[key] = file.info


def _check(inputs: Sequence[StoredSnapshot], outputs: Sequence[OutputSpec]) -> None:
    if not inputs or not outputs:
        raise ValueError(
            f"{len(inputs)} snapshots and {len(outputs)} outputs were given; at least one of each is needed"
        )
    if len({spec.key for spec in outputs}) != len(outputs):
        raise ValueError("two outputs have the same key")
    for spec in outputs:
        if len(spec.coefficients) != len(inputs):
            raise ValueError(f"{spec.key} has {len(spec.coefficients)} coefficients for {len(inputs)} snapshots")
        if spec.metadata.dtype != spec.dtype:
            raise ValueError(f"{spec.key} is to be {spec.dtype}, its metadata says {spec.metadata.dtype}")
