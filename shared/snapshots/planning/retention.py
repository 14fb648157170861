"""Chooses which snapshots of a run to keep, and predicts the effect of deleting the others. Torch-free.

A policy chooses times and keeps or drops all snapshots of a time together. Its choice depends on the times alone, so
applying the same policy again changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Protocol

import numpy as np

from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.snapshots.planning.basis_plan import StoredBasis
from phema.shared.snapshots.planning.calibration import Calibration, calibrate
from phema.shared.snapshots.planning.candidate_snapshots import candidates
from phema.shared.snapshots.planning.coefficient_fit import CoefficientFit
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, Shape

GRID = (0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
"""The sigma_rel values of forecasts. Published optima lie in this range."""
DECAYS: tuple[Shape, ...] = ("linear", "cosine", "1-sqrt")
DECAY_SHARE = 0.2
"""The learning-rate decays of forecasts: their shapes, and their length as a share of the time."""
SHARES = (1.0, 0.5, 0.25)
"""The times of forecasts, as fractions of the latest time."""
COARSEST = (2, 4, 8, 16, 32, 64)
"""Allowed values of ThinByAge.coarsest."""


class RetentionError(ValueError):
    """The policy cannot be applied to this run. `field`: the invalid parameter. The message is one sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class Policy(Protocol):
    """Chooses times of a run whose snapshots are kept."""

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        """The times to keep. `times`: all times, in rising order. `compacted`: the times with a finished basis.

        Raises RetentionError.
        """


@dataclass(frozen=True)
class KeepAll:
    """Keeps every snapshot."""

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        return set(times)


@dataclass(frozen=True)
class ThinByAge:
    """Keeps fewer times the older they are. The first and the last time are always kept.

    With `coarsest` 8, it keeps all times of the youngest eighth of the run, every 2nd time of the eighth before it,
    every 4th of the quarter before that, and every 8th of the older half: 31 % of the bytes of a long run.

    The choice depends on the position of a time among multiples of the usual interval, not on its index in the list.
    A time that a coarser part keeps is also kept by every finer part, so a run can be thinned repeatedly as it grows.
    """

    coarsest: int = 8

    def __post_init__(self) -> None:
        if self.coarsest not in COARSEST:
            allowed = ", ".join(map(str, COARSEST))
            raise RetentionError("coarsest", f"coarsest {self.coarsest} must be one of {allowed}")

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        if len(times) < 3:
            return set(times)
        latest, interval = times[-1], _interval(times, times[-1] * (1 - 1 / self.coarsest))
        last_of: dict[tuple[int, int], int] = {}
        for time in times:
            stride = self._stride(1 - time / latest)
            place = time if stride == 1 else -(-time // (stride * interval))
            last_of[stride, place] = time
        return {times[0], latest, *last_of.values()}

    def _stride(self, age: float) -> int:
        """One of this many times is kept. `age`: 0 for the latest time, 1 for the start of the run."""
        stride = self.coarsest
        while stride > 1 and age < stride / (2 * self.coarsest):
            stride //= 2
        return stride


@dataclass(frozen=True)
class KeepLatest:
    """Keeps the latest `count` times. It ruins long EMAs: see `refusal`."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RetentionError("keep", f"keep {self.count} must be at least 1")

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        return set(times[-self.count :])


@dataclass(frozen=True)
class BasisOnly:
    """Drops the times up to the newest basis, except the times of bases themselves. Keeps all later times."""

    times: tuple[int, ...] | None = None
    """Times of the bases to use; None for all finished bases."""

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        if not compacted:
            raise RetentionError("policy", "policy basis needs a finished basis and the run has none; compact it first")
        chosen = set(compacted if self.times is None else self.times)
        missing = sorted(chosen - set(compacted))
        if missing:
            finished = ", ".join(map(str, sorted(compacted)))
            raise RetentionError("times", f"times {missing[0]} has no finished basis; those that have: {finished}")
        return {time for time in times if time in chosen or time > max(chosen)}


@dataclass(frozen=True)
class Decision:
    """The kept and the dropped snapshots of a run, in order of time."""

    kept: tuple[StoredSnapshot, ...]
    dropped: tuple[StoredSnapshot, ...]

    @property
    def times_lost(self) -> tuple[int, ...]:
        """Times that will have no snapshot."""
        return tuple(sorted({s.num_images for s in self.dropped} - {s.num_images for s in self.kept}))


def decide(
    stored: Iterable[StoredSnapshot], policy: Policy, *, held: Collection[str] = (), compacted: Collection[int] = ()
) -> Decision:
    """Apply a policy.

    `held`: ids of snapshots that are always kept, because they are pinned or a job needs them. `compacted`: the times
    with a finished basis. Raises RetentionError.
    """
    snapshots = sorted(stored, key=lambda s: s.order)
    chosen = policy.keeps(sorted({s.num_images for s in snapshots}), compacted)
    stays = [s.num_images in chosen or s.id in held for s in snapshots]
    return Decision(
        kept=tuple(s for s, stay in zip(snapshots, stays, strict=True) if stay),
        dropped=tuple(s for s, stay in zip(snapshots, stays, strict=True) if not stay),
    )


@dataclass(frozen=True)
class Forecast:
    """Predicted relative errors of reconstructions at one time, one for each sigma_rel; None where it is impossible.

    They use all snapshots. A plan leaves some snapshots unread, so its error may be up to 2 % larger.
    """

    num_images: int
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    decay_images: int = 0
    """Length of the learning-rate decays below."""
    decays_before: tuple[float | None, ...] = ()
    decays_after: tuple[float | None, ...] = ()
    """One error for each shape in DECAYS."""


def forecast(
    decision: Decision,
    *,
    sigma_rels: Sequence[float] = GRID,
    times: Sequence[int] | None = None,
    bases: Sequence[StoredBasis] = (),
    probes: Mapping[str, bytes] | None = None,
    update_images: int | None = None,
) -> tuple[Forecast, ...]:
    """Predicted errors at each sigma_rel, and of learning-rate decays, before and after a decision.

    `times`: default, those nearest to the end, half and quarter of the run. `probes`: a sample of the weights by
    snapshot id. Raises RetentionError for a time without a snapshot.
    """
    stored = sorted([*decision.kept, *decision.dropped], key=lambda s: s.order)
    known = sorted({s.num_images for s in stored})
    if not known:
        return ()
    chosen = times if times is not None else _at_shares(known)
    missing = [time for time in chosen if time not in known]
    if missing:
        nearest = min(known, key=lambda time: abs(time - missing[0]))
        raise RetentionError("at", f"at {missing[0]} has no snapshot; the nearest time is {nearest}")

    def calibration(time: int) -> Calibration:
        """From all snapshots up to `time`. The same calibration is used before and after the decision."""
        return calibrate([s for s in stored if s.num_images <= time], probes or {}, update_images=update_images)

    return tuple(_forecast_at(time, stored, decision, sigma_rels, bases, calibration(time)) for time in chosen)


def refusal(
    policy: Policy, decision: Decision, forecasts: Sequence[Forecast], sigma_rels: Sequence[float] = GRID
) -> str | None:
    """The sentence, with predicted errors, that refuses a policy unless it is forced; None when it is acceptable.

    KeepLatest is always refused when it drops snapshots, because power-function EMAs weight the whole history.
    """
    if not isinstance(policy, KeepLatest) or not decision.dropped or not forecasts:
        return None
    latest = max(forecasts, key=lambda f: f.num_images)
    longest = sorted(range(len(sigma_rels)), key=lambda i: sigma_rels[i])[-2:][::-1]
    rises = ", ".join(
        f"of sigma_rel {sigma_rels[i]:g} from {_figure(latest.before[i])} to {_figure(latest.after[i])}"
        for i in longest
    )
    return (
        f"policy latest with keep {policy.count} would raise the predicted error at {latest.num_images} images "
        f"{rises}, because long EMAs are made of old snapshots, and leave {len(decision.times_lost)} times with none; "
        "use thin, or compact the run and use basis, or force it"
    )


def _forecast_at(
    time: int,
    stored: Sequence[StoredSnapshot],
    decision: Decision,
    sigma_rels: Sequence[float],
    bases: Sequence[StoredBasis],
    known: Calibration,
) -> Forecast:
    length = max(1, round(DECAY_SHARE * time))
    wanted = [Profile.power(sigma_rel) for sigma_rel in sigma_rels]
    wanted += [Profile(kind="lr_decay", shape=shape, length_images=length) for shape in DECAYS]
    of_bases = [_errors_of_basis(basis, wanted) for basis in bases if basis.num_images == time]

    def figures(snapshots: Sequence[StoredSnapshot]) -> tuple[float | None, ...]:
        errors = _errors(snapshots, wanted, time, known)
        return tuple(
            min((e for e in same if e is not None), default=None) for same in zip(errors, *of_bases, strict=True)
        )

    before, powers = figures(stored), len(sigma_rels)
    after = figures(decision.kept) if decision.dropped else before
    return Forecast(time, before[:powers], after[:powers], length, before[powers:], after[powers:])


def _errors(
    snapshots: Sequence[StoredSnapshot], wanted: Sequence[Profile], time: int, known: Calibration
) -> tuple[float | None, ...]:
    """Errors when all snapshots are read. Finding the fewest snapshots would take as long again."""
    stored = [s for s in snapshots if s.num_images <= time]
    if not stored or stored[-1].num_images != time:
        return (None,) * len(wanted)
    try:
        inputs = candidates(stored, [weighting(profile, time) for profile in wanted])
        fit, everything = CoefficientFit(inputs, list(wanted), time, known), np.arange(len(inputs))
        errors = fit.errors(fit.least_error_coefficients(everything), everything)
        return tuple(e.predicted_error for e in errors)
    except (PosthocError, np.linalg.LinAlgError):
        return (None,) * len(wanted)


def _errors_of_basis(basis: StoredBasis, wanted: Sequence[Profile]) -> tuple[float | None, ...]:
    try:
        planned = plan((), wanted, num_images=basis.num_images, bases=[basis])
    except PlanError:
        return (None,) * len(wanted)
    return tuple(output.errors.predicted_error for output in planned.outputs)


def _interval(times: Sequence[int], young: float) -> int:
    """The median distance between times later than `young`, where every time is kept; between all times if none is."""
    gaps = [b - a for a, b in pairwise(times) if b > young] or [b - a for a, b in pairwise(times)]
    return median_low(gaps)


def _at_shares(times: Sequence[int]) -> tuple[int, ...]:
    nearest = (min(times, key=lambda time: abs(time - share * times[-1])) for share in SHARES)
    return tuple(dict.fromkeys(nearest))


def _figure(error: float | None) -> str:
    return "nothing" if error is None else f"{error:.1e}"
