"""Aligns the tensors of several snapshots, so that they are read as a few long byte ranges. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from phema.shared.snapshots.combining.input_hash import InputHash
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.header import (
    DTYPE_CODES,
    ITEM_BYTES,
    Header,
    StoredDtype,
    TensorEntry,
    arrange,
    is_average,
    read_header_bytes,
)
from phema.shared.snapshots.files.tensor_compatibility import first_difference, layouts_of
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.interface import RangedReader

PASS_VERSION = 2
"""Increase it whenever the same task would write other bits: unfinished outputs of another version are not resumed.

Version 2 writes the same bits as version 1, which did not verify its inputs."""


@dataclass(frozen=True)
class SegmentLocation:
    """Where the elements of a segment are in the inputs of one layout."""

    start: int
    """Offset of the segment's first byte in the input's data."""
    dtype: str


@dataclass(frozen=True)
class Segment:
    """Elements of one or more tensors that are contiguous in every input and in every output."""

    count: int
    """Number of elements."""
    averaged: bool
    """Whether the elements are combined over the inputs. Otherwise they are copied from the last input."""
    locations: tuple[SegmentLocation, ...]
    """One for each layout of the inputs."""
    tensors: tuple[tuple[str, int], ...]
    """Name of each tensor and the index of its first element in the segment."""

    def item_bytes(self, layout: int) -> int:
        return ITEM_BYTES[self.locations[layout].dtype]


@dataclass(frozen=True)
class AlignedInputs:
    """Snapshots with tensors of equal names and shapes, in files that may differ in dtype and order."""

    snapshots: tuple[StoredSnapshot, ...]
    data_starts: tuple[int, ...]
    """For each file, the offset of its first tensor's bytes."""
    layouts: tuple[tuple[TensorEntry, ...], ...]
    """The different arrangements of tensors among the files."""
    layout_of: tuple[int, ...]
    """For each file, the index of its layout."""
    buffers: tuple[str, ...]
    hashes: tuple[InputHash, ...]
    """For each file, the hash of the bytes that were read with its header. A pass continues copies of them."""

    def output_tensors(self, dtype: StoredDtype) -> tuple[TensorEntry, ...]:
        """The tensors of an output whose averages have this dtype."""
        code = DTYPE_CODES[dtype]
        last = self.layouts[self.layout_of[-1]]
        named = ((e.name, code if is_average(e.name, e.dtype, self.buffers) else e.dtype, e.shape) for e in last)
        return arrange(named, self.buffers)

    def segments(self) -> tuple[Segment, ...]:
        """In the order of the outputs' bytes. This order is the same for every dtype of the averages."""
        entries = [{entry.name: entry for entry in layout} for layout in self.layouts]
        segments: list[Segment] = []
        for entry in self.output_tensors("float32"):
            locations = tuple(SegmentLocation(e[entry.name].start, e[entry.name].dtype) for e in entries)
            count = (entry.end - entry.start) // ITEM_BYTES[entry.dtype]
            averaged = is_average(entry.name, entry.dtype, self.buffers)
            if not count:
                continue
            segment = Segment(count, averaged, locations, ((entry.name, 0),))
            contiguous = bool(segments) and _contiguous(segments[-1], segment)
            segments.append(_joined(segments.pop(), segment) if contiguous else segment)
        return tuple(segments)

    def averaged_names(self) -> tuple[str, ...]:
        """Names of the tensors that are combined."""
        return tuple(e.name for e in self.layouts[self.layout_of[-1]] if is_average(e.name, e.dtype, self.buffers))

    def averaged_bytes(self, segments: Sequence[Segment]) -> int:
        """Bytes that one pass reads of the averaged segments."""
        layouts = [self.layout_of.count(layout) for layout in range(len(self.layouts))]
        return sum(
            s.count * s.item_bytes(layout) * n for s in segments if s.averaged for layout, n in enumerate(layouts)
        )


def read_inputs(store: RangedReader, snapshots: Sequence[StoredSnapshot], readers: Executor) -> AlignedInputs:
    """Read and compare the headers of all snapshots.

    Raises ObjectMissing, and CorruptObject naming the first snapshot whose tensors differ from the others.
    """
    read = list(readers.map(lambda s: _read_checked_header(store, s), snapshots))
    headers = [header for header, _ in read]
    described = next((header.metadata for header in reversed(headers) if header.metadata), None)
    buffers = described.buffers if described else ()
    layouts = list(dict.fromkeys(header.tensors for header in headers))
    first = layouts_of(headers[0].tensors, buffers)
    for snapshot, header in zip(snapshots, headers, strict=True):
        if (found := first_difference(layouts_of(header.tensors, buffers), first)) is not None:
            raise CorruptObject(
                f"object {snapshot.key} holds other tensors than {snapshots[0].key}: {found.name} is {found.found}, "
                f"there it is {found.expected}; snapshots of one run hold the same tensors"
            )
    return AlignedInputs(
        snapshots=tuple(snapshots),
        data_starts=tuple(header.data_start for header in headers),
        layouts=tuple(layouts),
        layout_of=tuple(layouts.index(header.tensors) for header in headers),
        buffers=buffers,
        hashes=tuple(begun for _, begun in read),
    )


def _read_checked_header(store: RangedReader, snapshot: StoredSnapshot) -> tuple[Header, InputHash]:
    header, prefix = read_header_bytes(store, snapshot.key, size=snapshot.size)
    found = header.metadata
    if found and (found.num_images, found.profile) != (snapshot.num_images, snapshot.profile):
        raise CorruptObject(
            f"object {snapshot.key} is the snapshot of {found.profile.key} at {found.num_images} images, not of "
            f"{snapshot.profile.key} at {snapshot.num_images}"
        )
    return header, InputHash.of_header(snapshot, header, prefix)


def _contiguous(before: Segment, after: Segment) -> bool:
    return before.averaged == after.averaged and all(
        a.dtype == b.dtype and a.start + before.count * ITEM_BYTES[a.dtype] == b.start
        for a, b in zip(before.locations, after.locations, strict=True)
    )


def _joined(before: Segment, after: Segment) -> Segment:
    names = tuple((name, before.count + start) for name, start in after.tensors)
    return Segment(before.count + after.count, before.averaged, before.locations, before.tensors + names)
