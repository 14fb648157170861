"""Which snapshots of a run to keep, and what giving the others up would do to every reconstruction. Torch-free, pure.

A policy chooses times; all averages of a time share its fate. What is chosen depends on the times alone, so that
applying a policy again to what it left changes nothing.
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
from phema.shared.snapshots.planning.coefficient_fit import Problem
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

GRID = (0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
"""The sigma_rel of forecasts: published optima span them."""
SHARES = (1.0, 0.5, 0.25)
"""The times of forecasts, as shares of the latest."""
COARSEST = (2, 4, 8, 16, 32, 64)


class RetentionError(ValueError):
    """The policy cannot be applied to this run; `field` is the parameter that is wrong, the message one sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class Policy(Protocol):
    """Chooses among the times at which a run has snapshots."""

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        """The times that stay, of `times` in rising order. `compacted` are those with a finished basis.

        Raises RetentionError.
        """


@dataclass(frozen=True)
class KeepAll:
    """Every snapshot stays."""

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        return set(times)


@dataclass(frozen=True)
class ThinByAge:
    """The older, the sparser: all of the youngest part, then every 2nd, every 4th, … time of parts twice as long each,
    and every `coarsest`-th time of the older half. The first and the last time always stay.

    With 8, the youngest eighth stays whole; of the eighth before it every 2nd time does, of the quarter before that
    every 4th, of the older half every 8th: 31 % of the bytes of a long run.

    What counts is where a time lies among multiples of the usual interval, not its number in the list: kept times of a
    coarser part are kept in every finer one, so that a run may be thinned again and again while it grows.
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
        """Of so many times one stays, `age` being 0 for the latest and 1 for the start of the run."""
        stride = self.coarsest
        while stride > 1 and age < stride / (2 * self.coarsest):
            stride //= 2
        return stride


@dataclass(frozen=True)
class KeepLatest:
    """The latest `count` times stay. Long EMAs do not survive it: see `refusal`."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RetentionError("keep", f"keep {self.count} must be at least 1")

    def keeps(self, times: Sequence[int], compacted: Collection[int]) -> set[int]:
        return set(times[-self.count :])


@dataclass(frozen=True)
class BasisOnly:
    """What bases stand for goes: every time up to the last of them, but their own. `times` are those of the bases to
    rely on, None all that are finished. What is later than the last stays."""

    times: tuple[int, ...] | None = None

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
    """Every snapshot of a run is either kept or dropped; both in order of time."""

    kept: tuple[StoredSnapshot, ...]
    dropped: tuple[StoredSnapshot, ...]

    @property
    def times_lost(self) -> tuple[int, ...]:
        """Times without a snapshot afterwards."""
        return tuple(sorted({s.num_images for s in self.dropped} - {s.num_images for s in self.kept}))


def decide(
    stored: Iterable[StoredSnapshot], policy: Policy, *, held: Collection[str] = (), compacted: Collection[int] = ()
) -> Decision:
    """Apply a policy. `held` are ids that stay whatever it says: pinned, or needed by work under way.

    Raises RetentionError.
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
    """Predicted relative errors of reconstructions at one time, in the order of the grid; None: impossible.

    Those of all snapshots together; a plan, which reads no more than it must, may promise up to 2 % more.
    """

    num_images: int
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]


def forecast(
    decision: Decision,
    *,
    sigma_rels: Sequence[float] = GRID,
    times: Sequence[int] | None = None,
    bases: Sequence[StoredBasis] = (),
    probes: Mapping[str, bytes] | None = None,
    update_images: int | None = None,
) -> tuple[Forecast, ...]:
    """What a decision would do to the errors at each sigma_rel, at `times` (default: those nearest to the latest, half
    and quarter of the run). Raises RetentionError for a time without a snapshot."""
    stored = sorted([*decision.kept, *decision.dropped], key=lambda s: s.order)
    known = sorted({s.num_images for s in stored})
    if not known:
        return ()
    chosen = times if times is not None else _at_shares(known)
    missing = [time for time in chosen if time not in known]
    if missing:
        nearest = min(known, key=lambda time: abs(time - missing[0]))
        raise RetentionError("at", f"at {missing[0]} has no snapshot; the nearest time is {nearest}")

    def told(time: int) -> Calibration:
        """What all snapshots up to then tell of the weights holds before and after."""
        return calibrate([s for s in stored if s.num_images <= time], probes or {}, update_images=update_images)

    return tuple(_forecast_at(time, stored, decision, sigma_rels, bases, told(time)) for time in chosen)


def refusal(
    policy: Policy, decision: Decision, forecasts: Sequence[Forecast], sigma_rels: Sequence[float] = GRID
) -> str | None:
    """Why a policy is refused unless forced, with the figures that show it; None when it is not.

    Keeping the latest is always refused when it drops something: power-function EMAs weight the whole history.
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
    wanted = [Profile.power(sigma_rel) for sigma_rel in sigma_rels]
    of_bases = [_errors_of_basis(basis, wanted) for basis in bases if basis.num_images == time]

    def figures(snapshots: Sequence[StoredSnapshot]) -> tuple[float | None, ...]:
        errors = _errors(snapshots, wanted, time, known)
        return tuple(
            min((e for e in same if e is not None), default=None) for same in zip(errors, *of_bases, strict=True)
        )

    before = figures(stored)
    return Forecast(time, before, figures(decision.kept) if decision.dropped else before)


def _errors(
    snapshots: Sequence[StoredSnapshot], wanted: Sequence[Profile], time: int, known: Calibration
) -> tuple[float | None, ...]:
    """With all snapshots. Which of them a plan need not read is a question of its own, as long to answer again."""
    inputs = [s for s in snapshots if s.num_images <= time]
    if not inputs or inputs[-1].num_images != time:
        return (None,) * len(wanted)
    try:
        problem, everything = Problem(inputs, list(wanted), time, known), np.arange(len(inputs))
        return tuple(e.predicted_error for e in problem.errors(problem.best_weights(everything), everything))
    except (PosthocError, np.linalg.LinAlgError):
        return (None,) * len(wanted)


def _errors_of_basis(basis: StoredBasis, wanted: Sequence[Profile]) -> tuple[float | None, ...]:
    try:
        planned = plan((), wanted, num_images=basis.num_images, bases=[basis])
    except PlanError:
        return (None,) * len(wanted)
    return tuple(output.errors.predicted_error for output in planned.outputs)


def _interval(times: Sequence[int], young: float) -> int:
    """The usual distance of times later than `young`, where all of them are kept; of all where there is but one."""
    gaps = [b - a for a, b in pairwise(times) if b > young] or [b - a for a, b in pairwise(times)]
    return median_low(gaps)


def _at_shares(times: Sequence[int]) -> tuple[int, ...]:
    nearest = (min(times, key=lambda time: abs(time - share * times[-1])) for share in SHARES)
    return tuple(dict.fromkeys(nearest))


def _figure(error: float | None) -> str:
    return "nothing" if error is None else f"{error:.1e}"
