"""How the tensors of several snapshots line up: as a few long runs of bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from shared.snapshots.errors import CorruptObject
from shared.snapshots.header import DTYPE_CODES, ITEM_BYTES, Header, StoredDtype, TensorEntry, arrange, is_average
from shared.snapshots.header import read_header as read_one
from shared.snapshots.plan import StoredSnapshot
from shared.snapshots.store import ObjectStore


@dataclass(frozen=True)
class Span:
    """Elements of one dtype that follow each other in every input and in every output."""

    start: int
    """Offset of the first byte in the inputs' data."""
    count: int
    """Number of elements."""
    dtype: str
    averaged: bool
    """Combined over the inputs; otherwise copied from the last."""

    @property
    def bytes(self) -> int:
        return self.count * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Inputs:
    """Snapshots with equal tensors at equal offsets. `data_starts`: where each file's tensors begin."""

    snapshots: tuple[StoredSnapshot, ...]
    data_starts: tuple[int, ...]
    tensors: tuple[TensorEntry, ...]
    buffers: tuple[str, ...]

    def arranged(self, dtype: StoredDtype) -> tuple[TensorEntry, ...]:
        """The tensors of an output whose averages have this dtype."""
        code = DTYPE_CODES[dtype]
        named = (
            (e.name, code if is_average(e.name, e.dtype, self.buffers) else e.dtype, e.shape) for e in self.tensors
        )
        return arrange(named, self.buffers)

    def spans(self) -> tuple[Span, ...]:
        """In the order of the outputs' bytes, which is the same for every dtype of the averages."""
        places = {entry.name: entry for entry in self.tensors}
        spans: list[Span] = []
        for name in (entry.name for entry in self.arranged("float32")):
            entry = places[name]
            count = (entry.end - entry.start) // ITEM_BYTES[entry.dtype]
            span = Span(entry.start, count, entry.dtype, is_average(name, entry.dtype, self.buffers))
            if spans and _continues(spans[-1], span):
                span = Span(spans[-1].start, spans[-1].count + count, span.dtype, span.averaged)
                spans.pop()
            spans.append(span)
        return tuple(span for span in spans if span.count)


def read_inputs(store: ObjectStore, snapshots: Sequence[StoredSnapshot], readers: Executor) -> Inputs:
    """Read and compare the headers of all snapshots. Raises ObjectMissing, or CorruptObject naming the odd one."""
    first: Header | None = None
    data_starts = []
    for snapshot, header in zip(snapshots, readers.map(lambda s: _checked(store, s), snapshots), strict=True):
        first = first or header
        if header.tensors != first.tensors:
            raise CorruptObject(
                f"object {snapshot.key} holds other tensors than {snapshots[0].key}; snapshots of one run are alike"
            )
        data_starts.append(header.data_start)
    assert first is not None, "at least one snapshot"
    buffers = first.metadata.buffers if first.metadata else ()
    return Inputs(tuple(snapshots), tuple(data_starts), first.tensors, buffers)


def _checked(store: ObjectStore, snapshot: StoredSnapshot) -> Header:
    header = read_one(store, snapshot.key, size=snapshot.size)
    found = header.metadata
    if found and (found.num_images, found.profile) != (snapshot.num_images, snapshot.profile):
        raise CorruptObject(
            f"object {snapshot.key} is the snapshot of {found.profile.key} at {found.num_images} images, not of "
            f"{snapshot.profile.key} at {snapshot.num_images}"
        )
    return header


def _continues(before: Span, after: Span) -> bool:
    alike = (before.dtype, before.averaged) == (after.dtype, after.averaged)
    return alike and before.start + before.bytes == after.start
