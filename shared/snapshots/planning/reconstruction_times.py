"""The times at which a run can be reconstructed. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

_NEAREST = 4


class PlanError(ValueError):
    """The requested reconstruction is impossible with the stored snapshots."""


class NoSnapshots(PlanError):
    """The run has no snapshots yet."""


class NoSnapshotAtTime(PlanError):
    """The run has no snapshot at this time. `nearest`: the closest times with one, in order."""

    def __init__(self, num_images: int, nearest: tuple[int, ...]) -> None:
        self.num_images, self.nearest = num_images, nearest
        times = ", ".join(map(str, nearest))
        super().__init__(f"num_images {num_images} has no snapshot; the nearest are {times}")


def choose_time(stored: Iterable[int], num_images: int | None) -> int:
    """`num_images` if it is one of the stored times; the latest stored time for None.

    Raises NoSnapshots, NoSnapshotAtTime.
    """
    times = sorted(set(stored))
    if not times:
        raise NoSnapshots("the run has no snapshots yet; the first is stored after snapshot_every images")
    if num_images is None:
        return times[-1]
    if num_images not in times:
        nearest = sorted(times, key=lambda t: (abs(t - num_images), t))[:_NEAREST]
        raise NoSnapshotAtTime(num_images, tuple(sorted(nearest)))
    return num_images


def latest_complete(snapshots: Sequence[StoredSnapshot], tracked: Collection[str]) -> int | None:
    """The latest time at which every tracked average is stored, in images; None without snapshots.

    `tracked`: the keys of the profiles that the run tracks; empty when they are not known. While a run trains, some
    averages of the newest time may be missing. Without `tracked`, a run is taken to track what it stored at the time
    before; raw weights do not count.
    """
    stored_at: dict[int, set[str]] = {}
    for snapshot in [s for s in snapshots if s.profile.kind != "raw"] or snapshots:
        stored_at.setdefault(snapshot.num_images, set()).add(snapshot.profile.key)
    if not stored_at:
        return None
    expected = set(tracked) or stored_at[sorted(stored_at)[-2:][0]]
    return max((time for time, found in stored_at.items() if expected <= found), default=max(stored_at))


def last_sampled(wanted: Sequence[Profile]) -> int | None:
    """The last time of a sampled profile, if there is one among the wanted: it can be reconstructed there only."""
    parts = [part for p in wanted for part in (p, p.default, *(t.profile for t in p.tensors or ()))]
    return next((part.times[-1] for part in parts if part is not None and part.times), None)
