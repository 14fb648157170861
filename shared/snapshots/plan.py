"""Which snapshots, with which coefficients, make the wanted profiles: known before a byte is read. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.edm2.posthoc import PowerProfile, solve
from shared.snapshots.header import StoredDtype
from shared.snapshots.profile import Profile

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
    """One stored snapshot as the catalog knows it."""

    id: str
    num_images: int
    profile: Profile
    key: str
    size: int
    sha256: str
    dtype: StoredDtype = "float32"

    @property
    def order(self) -> tuple[int, float, str]:
        """In time, then by width; averages without one come last."""
        width = self.profile.sigma_rel
        return self.num_images, 1.0 if width is None else width, self.id


@dataclass(frozen=True)
class Errors:
    """What coefficients promise. All are relative: to the wanted profile's norm, or to that of the weights."""

    profile_error: float
    """L2 distance of the combined from the wanted profile."""
    rounding_error: float
    """Rounding of the stored weights, as it adds up in the combination."""
    predicted_error: float
    """Expected L2 distance of the weights from the wanted average: what the profile error does to weights that move as
    this run's do, and the rounding."""
    noise_gain: float
    """||c||_2, by which independent rounding of the snapshots grows."""


@dataclass(frozen=True)
class TensorCoefficients:
    """Coefficients of the tensors whose name matches `pattern`, in the order of the plan's snapshots."""

    pattern: str
    profile: Profile
    coefficients: tuple[float, ...]
    errors: Errors


@dataclass(frozen=True)
class PlannedOutput:
    """One wanted profile: a coefficient per snapshot of the plan, and what they promise."""

    profile: Profile
    coefficients: tuple[float, ...]
    errors: Errors
    advice: str | None = None
    """Why the fit is poor and what would mend it; None for a good one."""
    tensors: tuple[TensorCoefficients, ...] = ()
    """Of a per-tensor profile, whose `coefficients` are those of its default."""


@dataclass(frozen=True)
class Plan:
    """A reconstruction of one or more profiles at one time from one pass over `snapshots` (in order of time)."""

    num_images: int
    snapshots: tuple[StoredSnapshot, ...]
    outputs: tuple[PlannedOutput, ...]
    bytes_to_read: int
    calibrated: bool
    """Whether the run itself told how much its weights move; otherwise a usual amount is assumed."""


def plan(
    stored: Sequence[StoredSnapshot],
    wanted: Sequence[Profile],
    *,
    num_images: int | None = None,
    regularize: bool = True,
    tolerance: float | None = None,
    probes: Mapping[str, bytes] | None = None,
) -> Plan:
    """Coefficients (paper's Eq. 4 and Algorithm 3) for every wanted profile at `num_images`; None is the latest time.

    A profile that is stored at that very time is that snapshot, exactly. Snapshots no output needs are left out.
    Raises NoSnapshots, NoSnapshotAtTime, PlanError (no or repeated profile), and PosthocError for an impossible one.
    """
    if not stored:
        raise NoSnapshots("the run has no snapshots yet; the first is stored after snapshot_every images")
    if not wanted:
        raise PlanError("sigma_rel is empty; name at least one")
    repeated = [profile for i, profile in enumerate(wanted) if profile in wanted[:i]]
    if repeated:
        raise PlanError(f"sigma_rel {repeated[0].label} is named twice; name each value once")
    time = _time(stored, num_images)
    inputs = sorted((s for s in stored if s.num_images <= time), key=lambda s: s.order)
    profiles = [PowerProfile(s.num_images, s.profile.sigma_rel or 0.0) for s in inputs]
    solution = solve(profiles, [PowerProfile(time, value.sigma_rel or 0.0) for value in wanted])
    coefficients = np.array(solution.coefficients, dtype=np.float64)
    errors, gains = list(map(float, solution.predicted_error)), list(map(float, solution.noise_gain))
    for row, profile in enumerate(wanted):
        exact = [i for i, s in enumerate(inputs) if (s.num_images, s.profile.sigma_rel) == (time, profile.sigma_rel)]
        if exact:
            coefficients[row] = 0.0
            coefficients[row, exact[0]] = 1.0
            errors[row], gains[row] = 0.0, 1.0
    needed = np.flatnonzero(coefficients.any(axis=0))
    used = tuple(inputs[i] for i in needed)
    outputs = tuple(
        PlannedOutput(
            profile,
            tuple(map(float, coefficients[row, needed])),
            Errors(errors[row], 0.0, errors[row], gains[row]),
        )
        for row, profile in enumerate(wanted)
    )
    return Plan(time, used, outputs, sum(s.size for s in used), calibrated=False)


def _time(stored: Sequence[StoredSnapshot], num_images: int | None) -> int:
    times = sorted({s.num_images for s in stored})
    if num_images is None:
        return times[-1]
    if num_images not in times:
        nearest = sorted(times, key=lambda t: (abs(t - num_images), t))[:_NEAREST]
        raise NoSnapshotAtTime(num_images, tuple(sorted(nearest)))
    return num_images
