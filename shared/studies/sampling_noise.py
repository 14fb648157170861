"""How the errors of figures are related that were computed from the same seeds.

All points of a search share their seeds, so most of a figure's error is the same at every point. That part moves the
whole curve and cannot move its minimum. What is left is a smooth function of the point: neighbours err alike. The
replicates of the figures (delete-one-block jackknife) show both, since differences of two points can be taken block by
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue, difference

FloatArray = NDArray[np.float64]

_LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Correlation lengths that are tried, in units of the searched range."""
_FLOOR = 0.01
"""Smallest share of a difference's variance that is independent between points; keeps matrices regular."""


@dataclass(frozen=True)
class Observation:
    """One figure at one point; a smaller value is better."""

    position: tuple[float, ...]
    """In the unit cube."""
    num_samples: int
    seed: int
    """Of the first picture. Pictures of equal seeds share their noise."""
    figure: FigureValue

    @property
    def level(self) -> tuple[int, int]:
        """Figures of one level may be compared with each other: equal numbers of pictures from equal seeds."""
        return self.num_samples, self.seed


@dataclass(frozen=True)
class SamplingNoise:
    """Variance of one picture's contribution to a figure, apart from the part that all points share."""

    smooth: float
    """Variance of the part that neighbouring points share."""
    length: float
    """Distance over which they share it, in units of the searched range."""
    independent: float
    """Variance of the part that each point has for itself."""

    def covariance(self, a: Sequence[Observation], b: Sequence[Observation]) -> FloatArray:
        """[len(a), len(b)]: covariance of the errors.

        The mean over n pictures and the mean over the first m < n of them have the covariance of one picture
        divided by n. Figures from different seeds have independent errors.
        """
        distance = _distances(_positions(a), _positions(b))
        shared = self.smooth * np.exp(-0.5 * (distance / self.length) ** 2) + self.independent * (distance == 0)
        seeds = np.equal.outer([o.seed for o in a], [o.seed for o in b])
        pictures = np.maximum.outer([o.num_samples for o in a], [o.num_samples for o in b])
        return np.asarray(shared * seeds / pictures, np.float64)


def sampling_noise(observations: Sequence[Observation]) -> SamplingNoise:
    """Estimate the noise from the paired differences of all figures of equal levels, by least squares."""
    distances, variances = [], []
    for a, b in combinations(observations, 2):
        if a.level != b.level or a.position == b.position:
            continue
        error = difference(a.figure, b.figure)[1]
        if error is not None:
            distances.append(float(np.linalg.norm(np.subtract(a.position, b.position))))
            variances.append(error**2 * a.num_samples)
    if not variances or not any(variances):
        return SamplingNoise(0.0, 1.0, 0.0)
    found, measured = np.array(distances), np.array(variances)
    # Relative errors of all variances are alike. Far points, of which many are poor networks, count less.
    weights = 1 / (measured + np.median(measured))
    fits = [_fit(found, measured, weights, length) for length in _LENGTHS]
    smooth, independent, length, _ = min(fits, key=lambda fit: fit[3])
    return SamplingNoise(smooth, length, max(independent, _FLOOR * float(np.median(measured))))


def _fit(
    distances: FloatArray, variances: FloatArray, weights: FloatArray, length: float
) -> tuple[float, float, float, float]:
    """(smooth, independent, length, residual): var = 2 smooth (1 - k(distance)) + 2 independent, both at least 0."""
    from scipy.optimize import nnls  # comes with scikit-learn, which only services have

    shape = np.stack([2 * (1 - np.exp(-0.5 * (distances / length) ** 2)), np.full(len(distances), 2.0)], axis=1)
    (smooth, independent), residual = nnls(shape * weights[:, None], variances * weights)
    return float(smooth), float(independent), length, float(residual)


def _positions(observations: Sequence[Observation]) -> FloatArray:
    return np.array([o.position for o in observations], np.float64)


def _distances(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.sum((a[:, None] - b[None]) ** 2, axis=-1)), np.float64)
