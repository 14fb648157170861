"""Combines stored snapshots into new weights: one streaming pass for all wanted profiles, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from phema.shared.snapshots.combining.aligned_inputs import Inputs, Span, read_inputs
from phema.shared.snapshots.combining.block_reader import TILE, WRITERS, BlockReader, Sizes
from phema.shared.snapshots.combining.combiner import Combiner, OutputSpec, rows_of
from phema.shared.snapshots.combining.thread_pool import lanes_of_torch, pool_of
from phema.shared.snapshots.errors import ObjectExists
from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, build_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore, ObjectWriter
from phema.shared.snapshots.stores.verification import digest

__all__ = ["OutputSpec", "ReconstructionCancelled", "reconstruct"]


class ReconstructionCancelled(Exception):
    """`cancelled` answered yes."""


def reconstruct(
    store: ObjectStore,
    inputs: Sequence[StoredSnapshot],
    outputs: Sequence[OutputSpec],
    *,
    memory_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> list[ObjectInfo]:
    """Write sum_i c_i * snapshot_i for every output; accumulation in float32 (paper, Algorithm 3 and section C).

    `inputs` are in order of time; each may be stored in a dtype of its own. Buffers (Fourier frequencies, integers)
    are copied from the last. All outputs come from one pass over the inputs; only when their upload buffers alone
    exceed `memory_bytes` are there more passes. `memory_bytes` bounds every buffer held, whatever the number and size
    of the snapshots; it never changes a bit of the result, nor does what else is asked for in the same pass.
    `progress(done, total)` counts bytes read and is called from this thread, as is `cancelled`.

    Nothing is kept after an error, unless `resume` is set: then what is durable of each output is kept, whether this
    call raises or the process is killed, and the next call with the same inputs and outputs reads only what the least
    advanced output lacks. The outputs' keys must then name all that the bytes depend on, PASS_VERSION included; who
    gives up on them calls `store.forget` and `store.delete` for each.

    Raises ValueError for a bound that is too small, coefficients that do not match or tensors that are no averages,
    ReconstructionCancelled, CorruptObject for a truncated or foreign snapshot, and the store's other errors.
    """
    _check(inputs, outputs)
    committed: dict[str, ObjectInfo] = {}
    with ExitStack() as stack:
        readers = stack.enter_context(pool_of(store.reads_in_flight, "reconstruct-read"))
        writers = stack.enter_context(pool_of(min(WRITERS, len(outputs)), "reconstruct-write"))
        lanes = stack.enter_context(lanes_of_torch())
        found = read_inputs(store, inputs, readers)
        names = found.averaged_names()
        _check_tensors(outputs, names)
        if resume:
            committed |= {spec.key: info for spec in outputs if (info := _finished(store, spec, found))}
        left = [spec for spec in outputs if spec.key not in committed]
        spans = found.spans()
        item_bytes = max((s.item_bytes(i) for s in spans for i in range(len(s.places)) if s.averaged), default=4)
        sizes = Sizes.within(
            memory_bytes,
            store,
            inputs=len(inputs),
            outputs=max(len(left), 1),
            item_bytes=item_bytes,
            lanes=lanes.count,
            coefficient_sets=len({rows_of(outputs, name) for name in names}),
        )
        passes = [left[i : i + sizes.outputs] for i in range(0, len(left), sizes.outputs)]
        watch = _Watch(found.averaged_bytes(spans) * len(passes), progress, cancelled)
        reader = BlockReader(store, found, sizes, item_bytes, readers)
        try:
            for specs in passes:
                _Pass(store, specs, reader, Combiner(specs, names, sizes, writers, lanes), watch, committed).run(resume)
        except BaseException:
            if not resume:
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
            raise ReconstructionCancelled("the reconstruction was cancelled")


class _Output:
    """One file of a pass: `kept` bytes of it are there from an earlier attempt, and are not written again."""

    def __init__(self, writer: ObjectWriter, kept: int) -> None:
        self._writer, self.kept, self._at = writer, kept, 0

    def skip_to(self, offset: int) -> None:
        """What is written next begins there; nothing before that is missing."""
        assert offset <= max(self.kept, self._at), "no gaps"
        self._at = offset

    def write(self, data: Data) -> None:
        view = memoryview(data).cast("B")
        new = view[max(0, min(self.kept - self._at, len(view))) :]
        self._at += len(view)
        if len(new):
            self._writer.write(new)


@dataclass
class _Pass:
    """Streams every span into some of the outputs; leaves them committed, or none of those still open."""

    store: ObjectStore
    specs: Sequence[OutputSpec]
    reader: BlockReader
    combiner: Combiner
    watch: _Watch
    committed: dict[str, ObjectInfo]

    def run(self, resume: bool) -> None:
        with ExitStack() as stack:
            files = [stack.enter_context(self._opened(spec, resume)) for spec in self.specs]
            stack.callback(self.combiner.drain)  # runs before the files are closed
            ends = []
            for spec, file in zip(self.specs, files, strict=True):
                header = build_header(spec.metadata, self.reader.inputs.arranged(spec.dtype))
                file.write(header)
                ends.append(len(header))
            for span in self.reader.inputs.spans():
                items = [self._item_bytes(spec, span) for spec in self.specs]
                self._span(span, files, ends, items)
                ends = [end + span.count * item for end, item in zip(ends, items, strict=True)]
            self.combiner.finish()

    def _span(self, span: Span, files: Sequence[_Output], starts: Sequence[int], items: Sequence[int]) -> None:
        """Write a span that begins at byte `starts[k]` of output k, from the first tile that any output lacks on."""
        places = list(zip(files, starts, items, strict=True))
        lacking = min(max(0, file.kept - start) // item for file, start, item in places)
        begin = span.count if lacking >= span.count else lacking // TILE * TILE if span.averaged else 0
        self.combiner.finish()
        for file, start, item in places:
            file.skip_to(start + begin * item)
        inputs = self.reader.inputs
        if not span.averaged:
            if begin < span.count:
                self.combiner.copy(files, self.reader.copied(span))
            return
        self.watch.done += begin * sum(span.item_bytes(layout) for layout in inputs.layout_of)
        for count in self.combiner.average(files, span, self.reader.units(span, begin)):
            self.watch.advance(count)

    def _item_bytes(self, spec: OutputSpec, span: Span) -> int:
        """Bytes of one element of the span in the output."""
        inputs = self.reader.inputs
        return ITEM_BYTES[DTYPE_CODES[spec.dtype]] if span.averaged else span.item_bytes(inputs.layout_of[-1])

    @contextmanager
    def _opened(self, spec: OutputSpec, resume: bool) -> Iterator[_Output]:
        if resume:
            with self.store.resumable(spec.key) as continued:
                yield _Output(continued, continued.position)
            self.committed[spec.key] = continued.info
            return
        with self.store.writer(spec.key) as file:
            yield _Output(file, 0)
        self.committed[spec.key] = file.info


def _finished(store: ObjectStore, spec: OutputSpec, inputs: Inputs) -> ObjectInfo | None:
    """The output as an earlier attempt completed it before it died, or None. Raises ObjectExists for another object."""
    found = store.head(spec.key)
    if found is None:
        return None
    tensors = inputs.arranged(spec.dtype)
    header = build_header(spec.metadata, tensors)
    size = len(header) + (tensors[-1].end if tensors else 0)
    if found.size != size or store.read_range(spec.key, 0, len(header)) != header:
        raise ObjectExists(f"object {spec.key} already exists in {store.url} with other bytes")
    store.forget(spec.key)
    return digest(store, spec.key)


def _check(inputs: Sequence[StoredSnapshot], outputs: Sequence[OutputSpec]) -> None:
    if not inputs or not outputs:
        raise ValueError(
            f"{len(inputs)} snapshots and {len(outputs)} outputs were given; at least one of each is needed"
        )
    if len({spec.key for spec in outputs}) != len(outputs):
        raise ValueError("two outputs have the same key")
    for spec in outputs:
        for name, row in {"": spec.coefficients, **spec.tensors}.items():
            if len(row) != len(inputs):
                where = f"{spec.key} has" if not name else f"{spec.key} has for tensor {name}"
                raise ValueError(f"{where} {len(row)} coefficients for {len(inputs)} snapshots")
        if spec.metadata.dtype != spec.dtype:
            raise ValueError(f"{spec.key} is to be {spec.dtype}, its metadata says {spec.metadata.dtype}")


def _check_tensors(outputs: Sequence[OutputSpec], averaged: Sequence[str]) -> None:
    for spec in outputs:
        for name in spec.tensors:
            if name not in averaged:
                raise ValueError(f"{spec.key} has coefficients for {name!r}, which is no averaged tensor of the run")
