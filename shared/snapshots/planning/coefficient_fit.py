"""Snapshots, what is wanted of them at one time, and which of them are enough. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.posthoc import Indices, WeightErrorFit, profile_errors, solve
from phema.shared.edm2.averaging.weightings import RawWeighting
from phema.shared.snapshots.planning.calibration import Calibration
from phema.shared.snapshots.planning.plan import Errors
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

AS_GOOD = 0.02
"""Share by which leaving snapshots unread may raise a predicted error."""


class Problem:
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
        self._aware = WeightErrorFit(self._profiles, self._wanted, movement=known.movement, noise=known.noise(inputs))
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
        if any(isinstance(p, RawWeighting) for p in [*self._profiles, *self._wanted]):
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


def pruned(problem: Problem, tolerance: float) -> tuple[Indices, FloatArray]:
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
