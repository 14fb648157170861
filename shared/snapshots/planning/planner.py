"""Plans reconstructions: which snapshots to read, with which coefficients. Reads no weights. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.snapshots.planning import advice
from phema.shared.snapshots.planning.basis_plan import StoredBasis
from phema.shared.snapshots.planning.calibration import Calibration, calibrate
from phema.shared.snapshots.planning.candidate_snapshots import candidates
from phema.shared.snapshots.planning.coefficient_fit import PRUNING_MARGIN, CoefficientFit, fewest_snapshots
from phema.shared.snapshots.planning.plan import Plan, PlannedOutput, PredictedErrors, TensorCoefficients
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError, choose_time
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

Calibrator = Callable[[Sequence[StoredSnapshot]], Calibration]
"""Calibrates from snapshots in order of time."""

MAX_BASIS_ERROR = 1e-3
"""Error, relative to the weights, that a basis may add when the request has no tolerance."""


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
    calibrator: Calibrator | None = None,
) -> Plan:
    """Coefficients for every profile in `wanted` at `num_images`; None is the latest time.

    The coefficients minimise the expected error of the weights, given the movement of the run's weights and the
    rounding of the stored dtypes. Without `regularize`, they minimise the error of the profile, as in the paper (Eq. 4
    and Algorithm 3), and are then divided by their sum. A profile that is stored at this time is its snapshot, exactly.

    Of a run with more than 256 times, only snapshots of well-spread times are considered (`candidate_snapshots`).
    Snapshots are not read if the predicted errors stay within 2 % of the best, or below `tolerance`, without them. A
    basis of this time that covers the profiles is read without a look at the snapshots (`_covers`). Another basis of
    this time is read instead of snapshots when its vectors are fewer bytes and it adds no more error than its own
    tolerance (at most MAX_BASIS_ERROR unless `tolerance` allows more), or when it is more exact than the snapshots that
    retention has left.

    `probes`: a sample of the weights by snapshot id, to measure their movement. `update_images`: images between two
    updates of the averages, which is the batch size. `calibrator`: called instead of `calibrate` with these two, unless
    a basis answers.

    Outputs name the times that `last_times` of a profile stands for.

    Raises NoSnapshots, NoSnapshotAtTime, and PlanError when no profile is given, one is repeated, or one is impossible.
    """
    time = choose_time([*(s.num_images for s in stored), *(b.num_images for b in bases)], num_images)
    wanted = _at_stored_times(wanted, stored, time)
    _check_wanted(wanted)
    targets = list(dict.fromkeys(p for profile in wanted for p in _plain_profiles(profile)))
    inputs = sorted((s for s in stored if s.num_images <= time), key=lambda s: s.order)
    usable = [basis for basis in bases if regularize and basis.num_images == time]
    try:
        found = [_from_basis(basis, targets, time) for basis in usable]
        covering = [
            candidate
            for basis, candidate in zip(usable, found, strict=True)
            if (basis.plan.calibrated or not (probes or calibrator))
            and _covers(basis, candidate, inputs, time, tolerance)
        ]
        if covering:
            return min(covering, key=lambda candidate: candidate.size).plan(wanted, time)
        if inputs and inputs[-1].num_images == time:
            measured = (
                calibrator(inputs) if calibrator else calibrate(inputs, probes or {}, update_images=update_images)
            )
            known = _calibrated(measured, bases, time)
            found.insert(0, _from_snapshots(inputs, targets, time, known, regularize, tolerance))
    except (PosthocError, np.linalg.LinAlgError) as error:
        raise PlanError(str(error)) from error
    if not found:
        raise PlanError(f"num_images {time} has only a basis, from which regularize false is impossible: leave it true")
    return _cheapest(found, time, tolerance).plan(wanted, time)


def _calibrated(measured: Calibration, bases: Sequence[StoredBasis], time: int) -> Calibration:
    """What was measured. If retention has left too few snapshots for it, the calibration of the nearest basis."""
    if measured.calibrated or not (calibrated := [basis for basis in bases if basis.plan.calibrated]):
        return measured
    return min(calibrated, key=lambda basis: abs(basis.num_images - time)).plan.calibration().at(time)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One way to make all targets: from snapshots, or from one basis."""

    inputs: tuple[StoredSnapshot, ...]
    targets: list[Profile]
    coefficients: FloatArray
    errors: list[PredictedErrors]
    calibrated: bool
    basis_id: str | None
    storage: advice.StorageSummary
    slack: float = 0.0
    """Error, relative to the weights, that this candidate may add: the tolerance of a basis."""

    @property
    def size(self) -> int:
        return sum(s.size for s in self.inputs)

    def plan(self, wanted: Sequence[Profile], time: int) -> Plan:
        rows = {target: k for k, target in enumerate(self.targets)}
        outputs = []
        for profile in wanted:
            own = rows[_plain_profiles(profile)[0]]
            tensors = tuple(
                TensorCoefficients(t.pattern, t.profile, self._row(rows[t.profile]), self.errors[rows[t.profile]])
                for t in profile.tensors or ()
            )
            worst = max([own, *(rows[t.profile] for t in tensors)], key=lambda k: self.errors[k].predicted_error)
            sentence = self._advice(worst, time)
            outputs.append(PlannedOutput(profile, self._row(own), self.errors[own], sentence, tensors))
        return Plan(time, self.inputs, tuple(outputs), self.size, self.calibrated, self.basis_id)

    def _row(self, k: int) -> tuple[float, ...]:
        return tuple(map(float, self.coefficients[k]))

    def _advice(self, k: int, time: int) -> str | None:
        errors = self.errors[k]
        return advice.advise(
            self.targets[k],
            predicted=errors.predicted_error,
            rounding=errors.rounding_error,
            initial=1 - float(weighting(self.targets[k], time).tail(0.0)),
            storage=self.storage,
        )


def _from_snapshots(
    stored: list[StoredSnapshot],
    targets: list[Profile],
    time: int,
    known: Calibration,
    regularize: bool,
    tolerance: float | None,
) -> _Candidate:
    inputs = candidates(stored, [weighting(target, time) for target in targets])
    fit = CoefficientFit(inputs, targets, time, known)
    if regularize:
        kept, coefficients = fewest_snapshots(fit, tolerance or 0.0)
    else:
        kept, coefficients = np.arange(len(inputs)), fit.least_squares_coefficients()
    needed = coefficients.any(axis=0)
    kept, coefficients = kept[needed], coefficients[:, needed]
    used = tuple(inputs[i] for i in kept)
    return _Candidate(
        used,
        targets,
        coefficients,
        fit.errors(coefficients, kept),
        known.calibrated,
        None,
        advice.summarize_storage(stored),
    )


def _cheapest(candidates: Sequence[_Candidate], time: int, tolerance: float | None) -> _Candidate:
    """The candidate with the fewest bytes among those that are good enough; if none is, the most exact one.

    Good enough: within PRUNING_MARGIN of the best, plus its `slack`, or below `tolerance` where it is given.
    """
    errors = np.array([[e.predicted_error for e in candidate.errors] for candidate in candidates])
    best = errors.min(axis=0)
    if tolerance is None:
        allowed = np.hypot(best * (1 + PRUNING_MARGIN), np.array([[candidate.slack] for candidate in candidates]))
    else:
        allowed = np.maximum(best * (1 + PRUNING_MARGIN), tolerance)
    good = (errors <= allowed) | np.array([_copies(candidate, time) for candidate in candidates])
    fine = [candidate for candidate, row in zip(candidates, good, strict=True) if row.all()]
    if fine:
        return min(fine, key=lambda candidate: candidate.size)
    return candidates[int(np.argmin((errors / np.maximum(allowed, 1e-12)).max(axis=1)))]


def _copies(candidate: _Candidate, time: int) -> list[bool]:
    """For each target, whether the candidate copies its stored snapshot, which is always good enough."""
    exact = {s.profile: i for i, s in enumerate(candidate.inputs) if s.num_images == time}
    return [
        target in exact and row[exact[target]] == 1.0 and np.count_nonzero(row) == 1
        for target, row in zip(candidate.targets, candidate.coefficients, strict=True)
    ]


def _from_basis(basis: StoredBasis, targets: list[Profile], time: int) -> _Candidate:
    inputs, known = basis.plan.snapshots, basis.plan.calibration()
    fit = CoefficientFit(inputs, targets, time, known, copy_stored=False)
    everything = np.arange(len(inputs))
    coefficients = fit.least_error_coefficients(everything)
    mathematical = basis.plan.basis()
    projected = mathematical.project(coefficients)
    # Errors of the projections as combinations of the snapshots: they include the error that the basis adds.
    errors = [
        replace(e, noise_gain=float(np.linalg.norm(row)))
        for e, row in zip(fit.errors(mathematical.combined(projected), everything), projected, strict=True)
    ]
    slack = min(basis.plan.tolerance, MAX_BASIS_ERROR)
    return _Candidate(
        basis.vectors, targets, projected, errors, known.calibrated, basis.id, basis.plan.storage_summary(), slack
    )


def _covers(
    basis: StoredBasis,
    candidate: _Candidate,
    inputs: Sequence[StoredSnapshot],
    time: int,
    tolerance: float | None,
) -> bool:
    """Whether `candidate`, made from `basis`, answers without a look at the snapshots `inputs`.

    Its vectors must be fewer bytes than all snapshots. The profiles must be power functions of the basis's range, or
    among its `profiles`, for which the basis was made to lose no more than its tolerance. Profiles that are all stored
    at this time are copied from their snapshots instead.
    """
    low, high = basis.plan.sigma_rel_min, basis.plan.sigma_rel_max
    stored_now = {s.profile for s in inputs if s.num_images == time}
    inside = all(
        (target.kind == "power" and low <= (target.sigma_rel or 0.0) <= high) or target in basis.plan.profiles
        for target in candidate.targets
    )
    if not inside or stored_now.issuperset(candidate.targets) or candidate.size > sum(s.size for s in inputs):
        return False
    if tolerance is None:
        return basis.plan.tolerance <= MAX_BASIS_ERROR
    return all(errors.predicted_error <= tolerance for errors in candidate.errors)


def _plain_profiles(profile: Profile) -> list[Profile]:
    """The plain profiles of a profile, its default first."""
    if profile.default is None:
        return [profile]
    return [profile.default, *(t.profile for t in profile.tensors or ())]


def _at_stored_times(wanted: Sequence[Profile], stored: Sequence[StoredSnapshot], time: int) -> list[Profile]:
    """The profiles with explicit times, so that what is made of them keeps its meaning when more times are stored.

    The stored times are those of raw weights where there are any, since their mean is exact.
    """
    before = [s for s in stored if s.num_images <= time]
    times = sorted({s.num_images for s in [s for s in before if s.profile.kind == "raw"] or before})
    try:
        return [profile.at_stored_times(times) for profile in wanted]
    except ValueError as error:
        raise PlanError(str(error)) from error


def _check_wanted(wanted: Sequence[Profile]) -> None:
    if not wanted:
        raise PlanError("sigma_rel is empty; name at least one")
    repeated = [profile for i, profile in enumerate(wanted) if profile in wanted[:i]]
    if repeated:
        raise PlanError(f"profile {repeated[0].label} is named twice; name each once")
