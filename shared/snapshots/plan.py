"""Which snapshots, with which coefficients, make the wanted profiles: known before a byte is read. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.edm2.posthoc import AwareProblem, Indices, PosthocError, profile_errors, solve
from shared.edm2.profiles import FloatArray, RawProfile
from shared.snapshots import advice
from shared.snapshots.basis import StoredBasis
from shared.snapshots.calibration import Calibration, calibrate
from shared.snapshots.profile import Profile
from shared.snapshots.stored import StoredSnapshot as StoredSnapshot
from shared.snapshots.times import NoSnapshotAtTime as NoSnapshotAtTime
from shared.snapshots.times import NoSnapshots as NoSnapshots
from shared.snapshots.times import PlanError as PlanError
from shared.snapshots.times import choose_time
from shared.snapshots.weighting import weighting

AS_GOOD = 0.02
"""Share by which leaving snapshots unread may raise a predicted error."""


@dataclass(frozen=True)
class Errors:
    """What coefficients promise. All are relative: to the wanted profile's norm, or to that of the weights."""

    profile_error: float | None
    """L2 distance of the combined from the wanted profile; None where raw weights take part."""
    rounding_error: float
    """Rounding of the stored weights, as it adds up in the combination."""
    predicted_error: float
    """Expected L2 distance of the weights from the wanted average: what the profile's misfit does to weights that move
    as this run's do, the rounding, and the rounding of any average kept in float32."""
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
    basis_id: str | None = None
    """The basis whose vectors are read instead of snapshots."""


def plan(
    stored: Sequence[StoredSnapshot],
    wanted: Sequence[Profile],
    *,
    num_images: int | None = None,
    regularize: bool = True,
    tolerance: float | None = None,
    probes: Mapping[str, bytes] | None = None,
    bases: Sequence[StoredBasis] = (),
    update_images: int | None = None,
) -> Plan:
    """Coefficients for every wanted profile at `num_images`; None is the latest time.

    They minimise the expected error of the weights, given how much the run's weights move (from `probes`, by snapshot
    id) and the rounding of the stored dtypes; without `regularize` they are the paper's (Eq. 4 and Algorithm 3), the
    nearest profile. A profile that is stored at that very time is that snapshot, exactly. Snapshots without which the
    predicted errors stay within 2 % of the best, or below `tolerance`, are not read. A basis of that time is read
    instead of snapshots where its vectors are less to read and lose no more than its own tolerance, or where it is
    better than what retention has left. `update_images`:
    images between two updates of the averages, their batch size.

    Raises NoSnapshots, NoSnapshotAtTime, and PlanError when profiles are lacking, repeated, or out of reach.
    """
    time = choose_time([*(s.num_images for s in stored), *(b.num_images for b in bases)], num_images)
    _check(wanted)
    targets = list(dict.fromkeys(p for profile in wanted for p in _parts(profile)))
    inputs = sorted((s for s in stored if s.num_images <= time), key=lambda s: s.order)
    options = []
    try:
        if inputs and inputs[-1].num_images == time:
            known = calibrate(inputs, probes or {}, update_images=update_images)
            options.append(_from_snapshots(inputs, targets, time, known, regularize, tolerance))
        options += [_from_basis(basis, targets, time) for basis in bases if regularize and basis.num_images == time]
    except PosthocError as error:
        raise PlanError(str(error)) from error
    if not options:
        raise PlanError(f"num_images {time} has only a basis, from which regularize false is impossible: leave it true")
    return _cheapest(options, time, tolerance or 0.0).plan(
        wanted, time, dtype=inputs[-1].dtype if inputs else "float32"
    )


@dataclass(frozen=True, eq=False)
class _Option:
    """One way to make all targets."""

    inputs: tuple[StoredSnapshot, ...]
    targets: list[Profile]
    coefficients: FloatArray
    errors: list[Errors]
    calibrated: bool
    basis_id: str | None
    facts: advice.Facts
    slack: float = 0.0
    """Relative error that it may add and count as good: a basis's tolerance."""

    @property
    def size(self) -> int:
        return sum(s.size for s in self.inputs)

    def plan(self, wanted: Sequence[Profile], time: int, dtype: str) -> Plan:
        rows = {target: k for k, target in enumerate(self.targets)}
        outputs = []
        for profile in wanted:
            own = rows[_parts(profile)[0]]
            tensors = tuple(
                TensorCoefficients(t.pattern, t.profile, self._row(rows[t.profile]), self.errors[rows[t.profile]])
                for t in profile.tensors or ()
            )
            worst = max([own, *(rows[t.profile] for t in tensors)], key=lambda k: self.errors[k].predicted_error)
            outputs.append(PlannedOutput(profile, self._row(own), self.errors[own], self._advice(worst), tensors))
        return Plan(time, self.inputs, tuple(outputs), self.size, self.calibrated, self.basis_id)

    def _row(self, k: int) -> tuple[float, ...]:
        return tuple(map(float, self.coefficients[k]))

    def _advice(self, k: int) -> str | None:
        errors = self.errors[k]
        return advice.advise(
            self.targets[k], predicted=errors.predicted_error, rounding=errors.rounding_error, facts=self.facts
        )


def _from_snapshots(
    inputs: list[StoredSnapshot],
    targets: list[Profile],
    time: int,
    known: Calibration,
    regularize: bool,
    tolerance: float | None,
) -> _Option:
    problem = _Problem(inputs, targets, time, known)
    if regularize:
        kept, coefficients = _pruned(problem, tolerance or 0.0)
    else:
        kept, coefficients = np.arange(len(inputs)), problem.nearest_profiles()
    needed = coefficients.any(axis=0)
    kept, coefficients = kept[needed], coefficients[:, needed]
    used = tuple(inputs[i] for i in kept)
    return _Option(
        used, targets, coefficients, problem.errors(coefficients, kept), known.calibrated, None, advice.facts(inputs)
    )


def _cheapest(options: Sequence[_Option], time: int, tolerance: float) -> _Option:
    """The one with least to read of those that are as good as the best of all."""
    errors = np.array([[e.predicted_error for e in option.errors] for option in options])
    best = errors.min(axis=0)
    slack = np.array([[option.slack] for option in options])
    allowed = np.maximum(np.hypot(best * (1 + AS_GOOD), slack), tolerance)
    good = (errors <= allowed) | np.array([_copies(option, time) for option in options])
    fine = [option for option, row in zip(options, good, strict=True) if row.all()]
    if fine:
        return min(fine, key=lambda option: option.size)
    return options[int(np.argmin((errors / np.maximum(allowed, 1e-12)).max(axis=1)))]


def _copies(option: _Option, time: int) -> list[bool]:
    """Which targets are a stored snapshot itself: nothing can be said against that."""
    exact = {s.profile: i for i, s in enumerate(option.inputs) if s.num_images == time}
    return [
        target in exact and row[exact[target]] == 1.0 and np.count_nonzero(row) == 1
        for target, row in zip(option.targets, option.coefficients, strict=True)
    ]


def _from_basis(basis: StoredBasis, targets: list[Profile], time: int) -> _Option:
    facts = basis.plan
    inputs, known = facts.stored(), facts.calibration()
    problem = _Problem(inputs, targets, time, known, copies=False)
    everything = np.arange(len(inputs))
    coefficients = problem.best_weights(everything)
    projected, lost = facts.basis().project(coefficients)
    errors = [
        replace(e, predicted_error=float(np.hypot(e.predicted_error, extra)), noise_gain=float(np.linalg.norm(row)))
        for e, extra, row in zip(problem.errors(coefficients, everything), lost, projected, strict=True)
    ]
    return _Option(
        basis.vectors, targets, projected, errors, known.calibrated, basis.id, advice.facts(inputs), facts.tolerance
    )


def _pruned(problem: _Problem, tolerance: float) -> tuple[Indices, FloatArray]:
    """The fewest snapshots, in order of what they contribute, that do as well as all; and their coefficients."""
    everything = np.arange(len(problem.inputs))
    coefficients = problem.best_weights(everything)
    best = problem.predicted(coefficients, everything)
    allowed = np.maximum(best * (1 + AS_GOOD), tolerance * problem.known.rms)
    ranked = np.argsort(-(np.abs(coefficients) / best[:, None]).max(axis=0), kind="stable")
    low, high, answer = 0, len(everything), (everything, coefficients)
    while high - low > 1:
        middle = (low + high) // 2
        kept = np.sort(ranked[:middle])
        found = problem.best_weights(kept)
        if (problem.predicted(found, kept) <= allowed).all():
            high, answer = middle, (kept, found)
        else:
            low = middle
    return answer


class _Problem:
    """Snapshots in order of time, what is wanted of them at one time, and what is known of their weights.

    With `copies`, what is stored is copied; a basis holds no snapshot with its own rounding.
    """

    def __init__(
        self,
        inputs: Sequence[StoredSnapshot],
        targets: list[Profile],
        time: int,
        known: Calibration,
        *,
        copies: bool = True,
    ) -> None:
        self.inputs, self.targets, self.known = inputs, targets, known
        self._profiles = [weighting(s.profile, s.num_images) for s in inputs]
        self._wanted = [weighting(target, time) for target in targets]
        self._aware = AwareProblem(self._profiles, self._wanted, movement=known.movement, noise=known.noise)
        self._tracking = known.tracking(self._wanted)
        self._itself = [
            next((i for i, s in enumerate(inputs) if copies and s.num_images == time and s.profile == target), None)
            for target in targets
        ]

    def best_weights(self, kept: Indices) -> FloatArray:
        """[targets, kept] coefficients of least expected error; a stored profile is its snapshot, exactly."""
        return self._with_stored_ones(self._aware.solve(kept), kept)

    def nearest_profiles(self) -> FloatArray:
        """[targets, inputs] coefficients of least profile error. Raises PlanError for raw weights."""
        if any(isinstance(p, RawProfile) for p in [*self._profiles, *self._wanted]):
            raise PlanError(
                "regularize false is impossible with raw weights, whose profile is an impulse: leave it true"
            )
        solution = solve(self._profiles, self._wanted)
        return self._with_stored_ones(solution.coefficients, np.arange(len(self.inputs)))

    def predicted(self, coefficients: FloatArray, kept: Indices) -> FloatArray:
        """[targets] expected errors in units of a weight."""
        movement, rounding, tracking = self._expected(coefficients, kept)
        return np.asarray(np.sqrt(movement**2 + rounding**2 + tracking**2))

    def errors(self, coefficients: FloatArray, kept: Indices) -> list[Errors]:
        rms = self.known.rms
        rounding = self._expected(coefficients, kept)[1] / rms
        predicted = self.predicted(coefficients, kept) / rms
        misfits = profile_errors([self._profiles[i] for i in kept], self._wanted, coefficients)
        return [
            Errors(
                profile_error=None if np.isnan(misfits[k]) else 0.0 if self._copies(k, kept) else float(misfits[k]),
                rounding_error=float(rounding[k]),
                predicted_error=float(predicted[k]),
                noise_gain=float(np.linalg.norm(row)),
            )
            for k, row in enumerate(coefficients)
        ]

    def _expected(self, coefficients: FloatArray, kept: Indices) -> tuple[FloatArray, FloatArray, FloatArray]:
        expected = self._aware.expected(coefficients, rms=self.known.rms, kept=kept)
        made = np.array([not self._copies(k, kept) for k in range(len(self.targets))])
        return expected.movement * made, expected.rounding, self._tracking * made

    def _copies(self, k: int, kept: Indices) -> bool:
        return self._itself[k] is not None and self._itself[k] in kept

    def _with_stored_ones(self, coefficients: FloatArray, kept: Indices) -> FloatArray:
        for k, index in enumerate(self._itself):
            if index is not None and index in kept:
                coefficients[k] = kept == index
        return coefficients


def _parts(profile: Profile) -> list[Profile]:
    """The plain profiles of a profile, its default first."""
    if profile.default is None:
        return [profile]
    return [profile.default, *(t.profile for t in profile.tensors or ())]


def _check(wanted: Sequence[Profile]) -> None:
    if not wanted:
        raise PlanError("sigma_rel is empty; name at least one")
    repeated = [profile for i, profile in enumerate(wanted) if profile in wanted[:i]]
    if repeated:
        raise PlanError(f"profile {repeated[0].label} is named twice; name each once")
