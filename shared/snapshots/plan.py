"""Which snapshots, with which coefficients, make the wanted profiles: known before a byte is read. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.edm2.posthoc import PowerProfile, solve

_NEAREST = 4


class PlanError(ValueError):
    """The wanted reconstruction is impossible from what is stored."""


class NoSnapshots(PlanError):
    """The run has stored nothing yet."""


class NoSnapshotAtTime(PlanError):
    """Nothing was stored at that time. `nearest` are the times closest to it, in order."""

    def __init__(self, num_images: int, nearest: tuple[int, ...]) -> None:
        self.num_images, self.nearest = num_images, nearest
        times = ", ".join(map(str, nearest))
        super().__init__(f"num_images {num_images} has no snapshot; the nearest are {times}")


@dataclass(frozen=True)
class StoredSnapshot:
    """One stored snapshot as the catalog knows it. `sigma_rel` is the exact value it was tracked with."""

    id: str
    num_images: int
    sigma_rel: float
    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PlannedOutput:
    """One wanted profile: a coefficient per snapshot of the plan, the relative L2 profile error, and ||c||_2."""

    sigma_rel: float
    coefficients: tuple[float, ...]
    predicted_error: float
    noise_gain: float


@dataclass(frozen=True)
class Plan:
    """A reconstruction of one or more profiles at one time from one pass over `snapshots` (in order of time)."""

    num_images: int
    snapshots: tuple[StoredSnapshot, ...]
    outputs: tuple[PlannedOutput, ...]
    bytes_to_read: int


def plan(stored: Sequence[StoredSnapshot], *, num_images: int | None = None, sigma_rels: Sequence[float]) -> Plan:
    """Least-squares plan (paper's Eq. 4 and Algorithm 3) for every sigma_rel at `num_images`; None is the latest time.

    A profile that is stored at that very time is that snapshot, exactly. Snapshots no output needs are left out.
    Raises NoSnapshots, NoSnapshotAtTime, PlanError (no or repeated sigma_rel), and PosthocError for an impossible one.
    """
    if not stored:
        raise NoSnapshots("the run has no snapshots yet; the first is stored after snapshot_every images")
    if not sigma_rels:
        raise PlanError("sigma_rel is empty; name at least one")
    repeated = [value for i, value in enumerate(sigma_rels) if value in sigma_rels[:i]]
    if repeated:
        raise PlanError(f"sigma_rel {repeated[0]:g} is named twice; name each value once")
    time = _time(stored, num_images)
    inputs = sorted((s for s in stored if s.num_images <= time), key=lambda s: (s.num_images, s.sigma_rel))
    profiles = [PowerProfile(s.num_images, s.sigma_rel) for s in inputs]
    solution = solve(profiles, [PowerProfile(time, value) for value in sigma_rels])
    coefficients = np.array(solution.coefficients, dtype=np.float64)
    errors, gains = list(map(float, solution.predicted_error)), list(map(float, solution.noise_gain))
    for row, sigma_rel in enumerate(sigma_rels):
        exact = [i for i, s in enumerate(inputs) if (s.num_images, s.sigma_rel) == (time, sigma_rel)]
        if exact:
            coefficients[row] = 0.0
            coefficients[row, exact[0]] = 1.0
            errors[row], gains[row] = 0.0, 1.0
    needed = np.flatnonzero(coefficients.any(axis=0))
    used = tuple(inputs[i] for i in needed)
    outputs = tuple(
        PlannedOutput(sigma_rel, tuple(map(float, coefficients[row, needed])), errors[row], gains[row])
        for row, sigma_rel in enumerate(sigma_rels)
    )
    return Plan(time, used, outputs, sum(s.size for s in used))


def _time(stored: Sequence[StoredSnapshot], num_images: int | None) -> int:
    times = sorted({s.num_images for s in stored})
    if num_images is None:
        return times[-1]
    if num_images not in times:
        nearest = sorted(times, key=lambda t: (abs(t - num_images), t))[:_NEAREST]
        raise NoSnapshotAtTime(num_images, tuple(sorted(nearest)))
    return num_images
