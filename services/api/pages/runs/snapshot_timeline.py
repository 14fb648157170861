"""The snapshots of a run on a line of time, as paths of an SVG that is stretched to the width of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phema.services.api.snapshots.schemas import Snapshot
from phema.services.api.snapshots.service import to_snapshot
from phema.shared.catalog import Run, Transaction
from phema.shared.snapshots.profile import Profile

WIDTH, MIDDLE = 1000, 10
"""Units of the SVG: width, and height of the line of a row."""
TIMES_SHOWN = 40
"""Rows of the table of times: the newest, and all pinned ones."""


@dataclass(frozen=True)
class TimelineRow:
    """One tracked average. Each path has a dot per snapshot."""

    label: str
    number: int
    stored: str
    pinned: str
    retired: str


@dataclass(frozen=True)
class SnapshotTime:
    """The snapshots of one time."""

    num_images: int
    snapshots: Sequence[Snapshot]

    @property
    def pinned(self) -> bool:
        return all(one.pinned for one in self.snapshots)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.snapshots)


@dataclass(frozen=True)
class SnapshotTimeline:
    """`bases`: places of finished bases, in units of the width."""

    rows: Sequence[TimelineRow]
    bases: Sequence[float]
    times: Sequence[SnapshotTime]
    """Newest first; see TIMES_SHOWN."""
    number: int
    number_of_times: int
    size: int
    pinned: int
    retired: int
    total: int
    """Images at the right end."""

    width = WIDTH
    middle = MIDDLE


def snapshot_timeline(tx: Transaction, run: Run) -> SnapshotTimeline:
    stored, retired = tx.snapshots.list(run.id), tx.snapshots.retired(run.id)
    total = max([run.total_images, *(row.num_images for row in stored)])
    by_label: dict[str, dict[str, list[int]]] = {}
    for row, kind in [
        *((row, "pinned" if row.pinned else "stored") for row in stored),
        *((r, "retired") for r in retired),
    ]:
        label = _label(row.profile)
        by_label.setdefault(label, {"stored": [], "pinned": [], "retired": []})[kind].append(row.num_images)
    rows = [
        TimelineRow(
            label=label,
            number=len(kinds["stored"]) + len(kinds["pinned"]),
            **{kind: _dots(times, total) for kind, times in kinds.items()},
        )
        for label, kinds in sorted(by_label.items())
    ]
    times = _times([to_snapshot(row) for row in stored])
    return SnapshotTimeline(
        rows=rows,
        bases=[WIDTH * time / total for time in sorted(tx.bases.times(run.id))],
        times=[one for place, one in enumerate(times) if place < TIMES_SHOWN or one.pinned],
        number=len(stored),
        number_of_times=len(times),
        size=sum(row.size for row in stored),
        pinned=sum(row.pinned for row in stored),
        retired=len(retired),
        total=total,
    )


def _label(profile: dict[str, object]) -> str:
    found = Profile.model_validate(profile)
    return f"σ_rel {found.sigma_rel:g}" if found.sigma_rel is not None else found.label


def _dots(times: Iterable[int], total: int) -> str:
    return "".join(f"M{WIDTH * time / total:.1f} {MIDDLE}h0" for time in times)


def _times(snapshots: Iterable[Snapshot]) -> list[SnapshotTime]:
    by_time: dict[int, list[Snapshot]] = {}
    for one in snapshots:
        by_time.setdefault(one.num_images, []).append(one)
    return [SnapshotTime(time, found) for time, found in sorted(by_time.items(), reverse=True)]
