"""Combines stored snapshots into new weights: one streaming pass for all outputs, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from phema.shared.snapshots.combining.aligned_inputs import AlignedInputs, Segment, read_inputs
from phema.shared.snapshots.combining.block_reader import TILE, WRITERS, BlockReader, BlockSizes
from phema.shared.snapshots.combining.combiner import Combiner, OutputSpec, coefficients_of
from phema.shared.snapshots.combining.thread_pool import compute_pool, thread_pool
from phema.shared.snapshots.errors import CorruptObject, ObjectExists
from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, build_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore, ObjectWriter
from phema.shared.snapshots.stores.verification import digest

__all__ = ["OutputSpec", "ReconstructionCancelled", "reconstruct"]


class ReconstructionCancelled(Exception):
    """`cancelled` returned True."""


def reconstruct(
    store: ObjectStore,
    inputs: Sequence[StoredSnapshot],
    outputs: Sequence[OutputSpec],
    *,
    memory_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    resume: bool = False,
    into: ObjectStore | None = None,
) -> list[ObjectInfo]:
    """Write sum_i c_i * snapshot_i for every output; accumulation in float32 (paper, Algorithm 3 and section C).

    `inputs` are in order of time; each may be stored in its own dtype. Buffers (Fourier frequencies, integers) are
    copied from the last input. All outputs come from one pass over the inputs; there are more passes only when the
    upload buffers alone exceed `memory_bytes`.

    `memory_bytes` bounds the sum of all buffers, for any number and size of snapshots. Neither it nor the other
    outputs of the pass change a bit of the result.

    `progress(done, total)` counts bytes read. It and `cancelled` are called from this thread.

    `into` is the store of the outputs; None is the store of the inputs.

    Every input is hashed while it is read. Outputs become visible only after the hashes of all inputs were the
    recorded ones.

    Without `resume`, nothing is kept after an error. With `resume`, what is durable of each output is kept when this
    call raises or the process is killed, unless an input is damaged. The next call with the same inputs and outputs
    computes and writes only what the least complete output lacks; it reads what comes before only to verify it. The
    outputs' keys must then name everything that the bytes depend on, including PASS_VERSION. To abandon an unfinished
    output, call `store.forget`, then `store.delete`.

    Raises ValueError for a memory bound that is too small, for coefficients that do not match the inputs and for
    coefficients of tensors that are not averages; ReconstructionCancelled; CorruptObject for a snapshot that is
    truncated, foreign or does not hold the bytes that were written; and the store's other errors.
    """
    _check_arguments(inputs, outputs)
    target = store if into is None else into
    committed: dict[str, ObjectInfo] = {}
    with ExitStack() as stack:
        readers = stack.enter_context(thread_pool(store.reads_in_flight, "reconstruct-read"))
        writers = stack.enter_context(thread_pool(min(WRITERS, len(outputs)), "reconstruct-write"))
        compute = stack.enter_context(compute_pool())
        aligned = read_inputs(store, inputs, readers)
        names = aligned.averaged_names()
        _check_tensors(outputs, names)
        if resume:
            committed |= {spec.key: info for spec in outputs if (info := _complete_output(target, spec, aligned))}
        left = [spec for spec in outputs if spec.key not in committed]
        segments = aligned.segments()
        item_bytes = max((s.item_bytes(i) for s in segments for i in range(len(s.locations)) if s.averaged), default=4)
        sizes = BlockSizes.within(
            memory_bytes,
            store,
            inputs=len(inputs),
            outputs=max(len(left), 1),
            item_bytes=item_bytes,
            threads=compute.count,
            coefficient_sets=len({coefficients_of(outputs, name) for name in names}),
            writer_memory_bytes=target.writer_memory_bytes,
        )
        passes = [left[i : i + sizes.outputs] for i in range(0, len(left), sizes.outputs)]
        monitor = _Monitor(aligned.averaged_bytes(segments) * len(passes), progress, cancelled)
        reader = BlockReader(store, aligned, sizes, item_bytes, readers)
        try:
            for specs in passes:
                combiner = Combiner(specs, names, sizes, writers, compute)
                _Pass(target, specs, reader, combiner, monitor, committed).run(resume)
        except BaseException as error:
            if resume and isinstance(error, CorruptObject):  # what is unfinished may have been made of damaged bytes
                for spec in left:
                    target.forget(spec.key)
            if not resume:
                for key in committed:
                    target.delete(key)
            raise
    return [committed[spec.key] for spec in outputs]


@dataclass
class _Monitor:
    """Reports progress and checks for cancellation between blocks."""

    total: int
    progress: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    done: int = 0

    def advance(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total)
        if self.cancelled():
            raise ReconstructionCancelled("the reconstruction was cancelled")


class _ResumedFile:
    """One file of a pass. Its first `kept` bytes exist from an earlier attempt and are not written again."""

    def __init__(self, writer: ObjectWriter, kept: int) -> None:
        self._writer, self.kept, self._at = writer, kept, 0

    def skip_to(self, offset: int) -> None:
        """Continue writing at `offset`. All bytes before it must exist already."""
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
    """Streams every segment into some of the outputs. On an error, outputs that are not committed are discarded."""

    store: ObjectStore
    """The store of the outputs."""
    specs: Sequence[OutputSpec]
    reader: BlockReader
    combiner: Combiner
    monitor: _Monitor
    committed: dict[str, ObjectInfo]

    def run(self, resume: bool) -> None:
        self.reader.begin_pass()
        with ExitStack() as stack:
            files = [stack.enter_context(self._opened(spec, resume)) for spec in self.specs]
            stack.callback(self.combiner.drain)  # runs before the files are closed
            ends = []
            for spec, file in zip(self.specs, files, strict=True):
                header = build_header(spec.metadata, self.reader.inputs.output_tensors(spec.dtype))
                file.write(header)
                ends.append(len(header))
            for segment in self.reader.inputs.segments():
                items = [self._item_bytes(spec, segment) for spec in self.specs]
                self._write_segment(segment, files, ends, items)
                ends = [end + segment.count * item for end, item in zip(ends, items, strict=True)]
            self.combiner.finish_writes()
            self.reader.check_inputs()

    def _write_segment(
        self, segment: Segment, files: Sequence[_ResumedFile], starts: Sequence[int], items: Sequence[int]
    ) -> None:
        """Write a segment, from the first tile that any output lacks on.

        The segment begins at byte `starts[k]` of output k and has `items[k]` bytes per element there.
        """
        outputs = list(zip(files, starts, items, strict=True))
        complete = min(max(0, file.kept - start) // item for file, start, item in outputs)
        begin = segment.count if complete >= segment.count else complete // TILE * TILE if segment.averaged else 0
        self.combiner.finish_writes()
        for file, start, item in outputs:
            file.skip_to(start + begin * item)
        if not segment.averaged:
            if begin < segment.count:
                self.combiner.copy(files, self.reader.last_snapshot_bytes(segment))
            return
        for block in self.reader.blocks(segment, 0, begin):  # to verify what the earlier attempt was made of
            self.monitor.advance(block.bytes)
        for count in self.combiner.average(files, segment, self.reader.blocks(segment, begin, segment.count)):
            self.monitor.advance(count)

    def _item_bytes(self, spec: OutputSpec, segment: Segment) -> int:
        """Bytes of one element of the segment in the output."""
        inputs = self.reader.inputs
        return ITEM_BYTES[DTYPE_CODES[spec.dtype]] if segment.averaged else segment.item_bytes(inputs.layout_of[-1])

    @contextmanager
    def _opened(self, spec: OutputSpec, resume: bool) -> Iterator[_ResumedFile]:
        if resume:
            with self.store.resumable(spec.key) as continued:
                yield _ResumedFile(continued, continued.position)
            self.committed[spec.key] = continued.info
            return
        with self.store.writer(spec.key) as file:
            yield _ResumedFile(file, 0)
        self.committed[spec.key] = file.info


def _complete_output(store: ObjectStore, spec: OutputSpec, inputs: AlignedInputs) -> ObjectInfo | None:
    """The output, if an earlier attempt completed it. Raises ObjectExists when the key holds another object."""
    found = store.head(spec.key)
    if found is None:
        return None
    tensors = inputs.output_tensors(spec.dtype)
    header = build_header(spec.metadata, tensors)
    size = len(header) + (tensors[-1].end if tensors else 0)
    if found.size != size or store.read_range(spec.key, 0, len(header)) != header:
        raise ObjectExists(f"object {spec.key} already exists in {store.url} with other bytes")
    store.forget(spec.key)
    return digest(store, spec.key)


def _check_arguments(inputs: Sequence[StoredSnapshot], outputs: Sequence[OutputSpec]) -> None:
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
                raise ValueError(f"{spec.key} has coefficients for {name!r}, which is not an averaged tensor")
