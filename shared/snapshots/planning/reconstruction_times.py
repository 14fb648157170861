"""The times at which a run can be reconstructed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

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
