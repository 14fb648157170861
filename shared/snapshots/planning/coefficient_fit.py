"""Fits coefficients of snapshots to wanted profiles, and finds the fewest snapshots that are enough. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.posthoc import Indices, WeightErrorFit, profile_errors, solve
from phema.shared.edm2.averaging.weightings import ImpulseWeighting
from phema.shared.snapshots.planning.calibration import Calibration
from phema.shared.snapshots.planning.plan import PredictedErrors
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

PRUNING_MARGIN = 0.02
"""Leaving snapshots unread may raise a predicted error by this fraction."""


class CoefficientFit:
    """Fits coefficients of `inputs` (in order of time) to `targets`, the profiles wanted at one time.

    With `copy_stored`, a target that is stored at that time is its snapshot, exactly. A basis needs False: it does not
    contain snapshots with their own rounding.
    """

    def __init__(
        self,
        inputs: Sequence[StoredSnapshot],
        targets: list[Profile],
        time: int,
        calibration: Calibration,
        *,
        copy_stored: bool = True,
    ) -> None:
        self.inputs, self.targets, self.calibration = inputs, targets, calibration
        self._profiles = [weighting(s.profile, s.num_images) for s in inputs]
        self._wanted = [weighting(target, time) for target in targets]
        movement, noise = calibration.movement, calibration.noise(inputs)
        self._aware = WeightErrorFit(self._profiles, self._wanted, movement=movement, noise=noise)
        self._tracking = calibration.tracking_rounding(self._wanted)
        stored_now = [i for i, s in enumerate(inputs) if copy_stored and s.num_images == time]
        self._stored_index = [next((i for i in stored_now if inputs[i].profile == t), None) for t in targets]

    def least_error_coefficients(self, kept: Indices) -> FloatArray:
        """[targets, kept] coefficients with the least expected error of the weights, using the inputs `kept`."""
        return self._with_copies(self._aware.solve(kept), kept)

    def least_squares_coefficients(self) -> FloatArray:
        """[targets, inputs] coefficients with the least profile error, divided by their sum.

        Undivided, each row misses 1 by a little, and the whole weights are scaled by its sum. Raises PlanError for a
        profile that is not square-integrable, and for a row whose sum is not above 0.
        """
        everything = [*self._profiles, *self._wanted]
        if any(isinstance(p, ImpulseWeighting) for p in everything):
            raise PlanError(
                "regularize false is impossible with raw weights, whose profile is an impulse: leave it true"
            )
        if not all(p.square_integrable for p in everything):
            raise PlanError(
                "regularize false is impossible with a decay of shape 1-sqrt, whose density has no finite norm: leave "
                "it true"
            )
        coefficients = solve(self._profiles, self._wanted).coefficients
        sums = coefficients.sum(axis=1, keepdims=True)
        for target, total in zip(self.targets, sums[:, 0], strict=True):
            if not total > 0:
                raise PlanError(
                    f"regularize false is impossible for profile {target.label}: its least-squares coefficients sum to "
                    f"{total:g}, by which they cannot be divided; leave it true"
                )
        return self._with_copies(coefficients / sums, np.arange(len(self.inputs)))

    def predicted_errors(self, coefficients: FloatArray, kept: Indices) -> FloatArray:
        """[targets] expected errors of the weights, in units of a weight."""
        movement, rounding, tracking = self._expected(coefficients, kept)
        return np.asarray(np.sqrt(movement**2 + rounding**2 + tracking**2))

    def errors(self, coefficients: FloatArray, kept: Indices) -> list[PredictedErrors]:
        """Errors of each target, relative as PredictedErrors says."""
        rms = self.calibration.rms
        rounding = self._expected(coefficients, kept)[1] / rms
        predicted = self.predicted_errors(coefficients, kept) / rms
        misfits = profile_errors([self._profiles[i] for i in kept], self._wanted, coefficients)
        return [
            PredictedErrors(
                profile_error=None if np.isnan(misfits[k]) else 0.0 if self._copies(k, kept) else float(misfits[k]),
                rounding_error=float(rounding[k]),
                predicted_error=float(predicted[k]),
                noise_gain=float(np.linalg.norm(row)),
            )
            for k, row in enumerate(coefficients)
        ]

    def _expected(self, coefficients: FloatArray, kept: Indices) -> tuple[FloatArray, FloatArray, FloatArray]:
        """[targets] errors due to movement, stored rounding and tracking, in units of a weight."""
        expected = self._aware.expected(coefficients, rms=self.calibration.rms, kept=kept)
        combined = np.array([not self._copies(k, kept) for k in range(len(self.targets))])
        return expected.movement * combined, expected.rounding, self._tracking * combined

    def _copies(self, k: int, kept: Indices) -> bool:
        """Whether target k is one of the inputs `kept`."""
        return self._stored_index[k] is not None and self._stored_index[k] in kept

    def _with_copies(self, coefficients: FloatArray, kept: Indices) -> FloatArray:
        for k, index in enumerate(self._stored_index):
            if index is not None and index in kept:
                coefficients[k] = kept == index
        return coefficients


def fewest_snapshots(fit: CoefficientFit, tolerance: float) -> tuple[Indices, FloatArray]:
    """The fewest inputs whose errors are within PRUNING_MARGIN of those of all inputs, or below `tolerance`.

    Returns the indices of the inputs and their coefficients. Inputs are left out in order of their contribution.
    """
    everything = np.arange(len(fit.inputs))
    coefficients = fit.least_error_coefficients(everything)
    best = fit.predicted_errors(coefficients, everything)
    allowed = np.maximum(best * (1 + PRUNING_MARGIN), tolerance * fit.calibration.rms)
    ranked = np.argsort(-(np.abs(coefficients) / best[:, None]).max(axis=0), kind="stable")
    low, high, answer = 0, len(everything), (everything, coefficients)
    while high - low > 1:
        middle = (low + high) // 2
        kept = np.sort(ranked[:middle])
        found = fit.least_error_coefficients(kept)
        if (fit.predicted_errors(found, kept) <= allowed).all():
            high, answer = middle, (kept, found)
        else:
            low = middle
    return answer
