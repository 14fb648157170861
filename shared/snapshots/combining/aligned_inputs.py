"""How the tensors of several snapshots line up: as a few long runs of bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.header import (
    DTYPE_CODES,
    ITEM_BYTES,
    Header,
    StoredDtype,
    TensorEntry,
    arrange,
    is_average,
)
from phema.shared.snapshots.files.header import read_header as read_one
from phema.shared.snapshots.files.tensor_compatibility import first_difference, layouts_of
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.interface import ObjectStore

PASS_VERSION = 1
"""Changes whenever the same task would come out with other bits: what an older program began is not continued."""


@dataclass(frozen=True)
class Place:
    """Where the elements of a span lie in some of the inputs."""

    start: int
    """Offset of the first byte in the inputs' data."""
    dtype: str


@dataclass(frozen=True)
class Span:
    """Elements that follow each other in every input and in every output."""

    count: int
    """Number of elements."""
    averaged: bool
    """Combined over the inputs; otherwise copied from the last."""
    places: tuple[Place, ...]
    """One for each layout of the inputs."""
    tensors: tuple[tuple[str, int], ...]
    """The tensors and, of each, the index of its first element in the span."""

    def item_bytes(self, layout: int) -> int:
        return ITEM_BYTES[self.places[layout].dtype]


@dataclass(frozen=True)
class Inputs:
    """Snapshots of the same tensors: equal names and shapes, in files that may differ in dtype and order."""

    snapshots: tuple[StoredSnapshot, ...]
    data_starts: tuple[int, ...]
    """Where each file's tensors begin."""
    layouts: tuple[tuple[TensorEntry, ...], ...]
    """The different ways in which the files hold the tensors."""
    layout_of: tuple[int, ...]
    """Each file's layout."""
    buffers: tuple[str, ...]

    def arranged(self, dtype: StoredDtype) -> tuple[TensorEntry, ...]:
        """The tensors of an output whose averages have this dtype."""
        code = DTYPE_CODES[dtype]
        last = self.layouts[self.layout_of[-1]]
        named = ((e.name, code if is_average(e.name, e.dtype, self.buffers) else e.dtype, e.shape) for e in last)
        return arrange(named, self.buffers)

    def spans(self) -> tuple[Span, ...]:
        """In the order of the outputs' bytes, which is the same for every dtype of the averages."""
        places = [{entry.name: entry for entry in layout} for layout in self.layouts]
        spans: list[Span] = []
        for entry in self.arranged("float32"):
            found = tuple(Place(place[entry.name].start, place[entry.name].dtype) for place in places)
            count = (entry.end - entry.start) // ITEM_BYTES[entry.dtype]
            averaged = is_average(entry.name, entry.dtype, self.buffers)
            if not count:
                continue
            span = Span(count, averaged, found, ((entry.name, 0),))
            spans.append(_joined(spans.pop(), span) if spans and _continues(spans[-1], span) else span)
        return tuple(spans)

    def averaged_names(self) -> tuple[str, ...]:
        """The tensors that are combined."""
        return tuple(e.name for e in self.layouts[self.layout_of[-1]] if is_average(e.name, e.dtype, self.buffers))

    def averaged_bytes(self, spans: Sequence[Span]) -> int:
        """Bytes that one pass reads of the averaged spans."""
        layouts = [self.layout_of.count(layout) for layout in range(len(self.layouts))]
        return sum(s.count * s.item_bytes(layout) * n for s in spans if s.averaged for layout, n in enumerate(layouts))


def read_inputs(store: ObjectStore, snapshots: Sequence[StoredSnapshot], readers: Executor) -> Inputs:
    """Read and compare the headers of all snapshots. Raises ObjectMissing, or CorruptObject naming the odd one."""
    headers = list(readers.map(lambda s: _checked(store, s), snapshots))
    described = next((header.metadata for header in reversed(headers) if header.metadata), None)
    buffers = described.buffers if described else ()
    layouts = list(dict.fromkeys(header.tensors for header in headers))
    first = layouts_of(headers[0].tensors, buffers)
    for snapshot, header in zip(snapshots, headers, strict=True):
        if (found := first_difference(layouts_of(header.tensors, buffers), first)) is not None:
            raise CorruptObject(
                f"object {snapshot.key} holds other tensors than {snapshots[0].key}: {found.name} is {found.found}, "
                f"there it is {found.expected}; snapshots of one run are alike"
            )
    return Inputs(
        snapshots=tuple(snapshots),
        data_starts=tuple(header.data_start for header in headers),
        layouts=tuple(layouts),
        layout_of=tuple(layouts.index(header.tensors) for header in headers),
        buffers=buffers,
    )


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
    return before.averaged == after.averaged and all(
        a.dtype == b.dtype and a.start + before.count * ITEM_BYTES[a.dtype] == b.start
        for a, b in zip(before.places, after.places, strict=True)
    )


def _joined(before: Span, after: Span) -> Span:
    names = tuple((name, before.count + start) for name, start in after.tensors)
    return Span(before.count + after.count, before.averaged, before.places, before.tensors + names)
