"""Which snapshots, with which coefficients, make the wanted profiles: known before a byte is read. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.edm2.averaging.weightings import FloatArray
from phema.shared.snapshots.planning import advice
from phema.shared.snapshots.planning.basis_plan import StoredBasis
from phema.shared.snapshots.planning.calibration import Calibration, calibrate
from phema.shared.snapshots.planning.coefficient_fit import AS_GOOD, Problem, pruned
from phema.shared.snapshots.planning.plan import Errors, Plan, PlannedOutput, TensorCoefficients
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError, choose_time
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


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
    known: Calibration | None = None,
) -> Plan:
    """Coefficients for every wanted profile at `num_images`; None is the latest time.

    They minimise the expected error of the weights, given how much the run's weights move (from `probes`, by snapshot
    id) and the rounding of the stored dtypes; without `regularize` they are the paper's (Eq. 4 and Algorithm 3), the
    nearest profile. A profile that is stored at that very time is that snapshot, exactly. Snapshots without which the
    predicted errors stay within 2 % of the best, or below `tolerance`, are not read. A basis of that time is read
    instead of snapshots where its vectors are less to read and lose no more than its own tolerance, or where it is
    better than what retention has left. `update_images`: images between two updates of the averages, their batch size.
    `known`: what is known of the weights, where that is more than `probes` tell.

    Raises NoSnapshots, NoSnapshotAtTime, and PlanError when profiles are lacking, repeated, or out of reach.
    """
    time = choose_time([*(s.num_images for s in stored), *(b.num_images for b in bases)], num_images)
    _check(wanted)
    targets = list(dict.fromkeys(p for profile in wanted for p in _parts(profile)))
    inputs = sorted((s for s in stored if s.num_images <= time), key=lambda s: s.order)
    options = []
    try:
        if inputs and inputs[-1].num_images == time:
            known = known or _learnt(inputs, probes or {}, bases, update_images)
            options.append(_from_snapshots(inputs, targets, time, known, regularize, tolerance))
        options += [_from_basis(basis, targets, time) for basis in bases if regularize and basis.num_images == time]
    except (PosthocError, np.linalg.LinAlgError) as error:
        raise PlanError(str(error)) from error
    if not options:
        raise PlanError(f"num_images {time} has only a basis, from which regularize false is impossible: leave it true")
    return _cheapest(options, time, tolerance).plan(wanted, time)


def _learnt(
    inputs: Sequence[StoredSnapshot],
    probes: Mapping[str, bytes],
    bases: Sequence[StoredBasis],
    update_images: int | None,
) -> Calibration:
    """What the snapshots tell; where retention has left too few of them, what they told when a basis was made."""
    known, time = calibrate(inputs, probes, update_images=update_images), inputs[-1].num_images
    told = [basis for basis in bases if basis.plan.calibrated]
    if known.calibrated or not told:
        return known
    return min(told, key=lambda basis: abs(basis.num_images - time)).plan.calibration().at(time)


SLACK = 1e-3
"""Relative error that a basis may add unasked; a coarser one is for those who give a tolerance."""


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

    def plan(self, wanted: Sequence[Profile], time: int) -> Plan:
        rows = {target: k for k, target in enumerate(self.targets)}
        outputs = []
        for profile in wanted:
            own = rows[_parts(profile)[0]]
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
            facts=self.facts,
        )


def _from_snapshots(
    inputs: list[StoredSnapshot],
    targets: list[Profile],
    time: int,
    known: Calibration,
    regularize: bool,
    tolerance: float | None,
) -> _Option:
    problem = Problem(inputs, targets, time, known)
    if regularize:
        kept, coefficients = pruned(problem, tolerance or 0.0)
    else:
        kept, coefficients = np.arange(len(inputs)), problem.nearest_profiles()
    needed = coefficients.any(axis=0)
    kept, coefficients = kept[needed], coefficients[:, needed]
    used = tuple(inputs[i] for i in kept)
    return _Option(
        used, targets, coefficients, problem.errors(coefficients, kept), known.calibrated, None, advice.facts(inputs)
    )


def _cheapest(options: Sequence[_Option], time: int, tolerance: float | None) -> _Option:
    """The one with least to read of those that are as good as the best of all, or as was asked."""
    errors = np.array([[e.predicted_error for e in option.errors] for option in options])
    best = errors.min(axis=0)
    if tolerance is None:
        allowed = np.hypot(best * (1 + AS_GOOD), np.array([[option.slack] for option in options]))
    else:
        allowed = np.maximum(best * (1 + AS_GOOD), tolerance)
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
    inputs, known = list(facts.snapshots), facts.calibration()
    problem = Problem(inputs, targets, time, known, copies=False)
    everything = np.arange(len(inputs))
    coefficients = problem.best_weights(everything)
    made = facts.basis()
    projected = made.project(coefficients)
    # As combinations of the snapshots, so that what the basis loses is part of every figure.
    errors = [
        replace(e, noise_gain=float(np.linalg.norm(row)))
        for e, row in zip(problem.errors(made.combined(projected), everything), projected, strict=True)
    ]
    slack = min(facts.tolerance, SLACK)
    return _Option(basis.vectors, targets, projected, errors, known.calibrated, basis.id, facts.facts(), slack)


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
