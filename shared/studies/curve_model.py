"""A Gaussian-process model of a figure over the searched ranges.

scikit-learn supplies the kernel. Its regressor knows independent errors only, and errors of points that share their
seeds are not independent (`sampling_noise`), so the conditional distribution is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from phema.shared.studies.sampling_noise import Observation, SamplingNoise, sampling_noise
from phema.shared.studies.search_space import low_discrepancy

FloatArray = NDArray[np.float64]

_DRAWS = 256
"""Values of the kernel's parameters that are weighed against each other."""
_KEPT = 16
"""Of these, the number that stands for all: drawn in proportion to their posterior probability."""
_LENGTH = (0.4, 0.4)
"""Prior of the kernel's length along each axis, in units of the range: median, and standard deviation of its log."""
_AMPLITUDE_SPREAD = 1.0
"""Standard deviation of the log of the kernel's amplitude in its prior."""
_OFFSET = 1e2
"""Standard deviation of the offset of a level about its mean, in units of the figures' spread: no information."""
_JITTER = 1e-4
"""Standard deviation of an error that every figure has at least, in units of the spread; keeps matrices regular."""
_MISFIT = 0.3
"""Standard deviation, as a share of the excess, of a point far above the best. See `_misfit`."""
_BIAS_VARIATION = 0.005
"""How much the bias of a Fréchet distance varies over the ranges, as a share of the bias. Measured on the digits:
0.004."""


@dataclass(frozen=True)
class Belief:
    """What the model knows about the figure at some positions, up to a constant that is the same at all of them."""

    means: FloatArray
    """[kernels, n]"""
    covariances: FloatArray
    """[kernels, n, n]"""

    @cached_property
    def mean(self) -> FloatArray:
        """[n]"""
        return np.asarray(self.means.mean(axis=0), np.float64)

    def difference_error(self, index: int) -> FloatArray:
        """[n]: standard deviation of the difference between each position and the one with this index."""
        variances = np.diagonal(self.covariances, axis1=1, axis2=2)
        own = variances + variances[:, [index]] - 2 * self.covariances[:, index]
        between = (self.means - self.means[:, [index]]).var(axis=0)
        return np.asarray(np.sqrt(np.maximum(own.mean(axis=0) + between, 0)), np.float64)

    def minima(self, count: int, seed: int) -> NDArray[np.int64]:
        """[count]: indices of the lowest position in samples of the figure."""
        generator = np.random.RandomState(seed)  # its stream is frozen by NumPy's policy
        each = -(-count // len(self.means))
        found = []
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            noise = generator.standard_normal((each, len(mean)))
            found.append((mean + noise @ _root(covariance).T).argmin(axis=1))
        return np.concatenate(found)[:count]


def _root(covariance: FloatArray) -> FloatArray:
    """Cholesky factor of a covariance that may be singular."""
    scale = float(np.diag(covariance).max()) or 1.0
    for share in (1e-9, 1e-7, 1e-5):
        try:
            return np.asarray(np.linalg.cholesky(covariance + np.eye(len(covariance)) * share * scale), np.float64)
        except np.linalg.LinAlgError:
            continue
    return np.asarray(np.diag(np.sqrt(np.maximum(np.diag(covariance), 0))), np.float64)


class CurveModel:
    """The model after some observations, at least two of which have the same level.

    Figures of different levels (numbers of pictures, seeds) are never compared directly: each level has an unknown
    offset, which stands for the bias of its number of pictures and for the errors that its seeds share.
    """

    def __init__(self, observations: Sequence[Observation], noise: SamplingNoise | None = None) -> None:
        self.observations = tuple(observations)
        self.noise = sampling_noise(observations) if noise is None else noise
        self._values = _about_means_of_levels(observations)
        self._spread = _spread(observations)
        self._bias = _bias(observations)
        self._reference = max(o.num_samples for o in observations)
        self._errors = self.noise.covariance(observations, observations) + np.diag(self._misfit() ** 2)
        self._errors[np.diag_indices_from(self._errors)] += (_JITTER * self._spread) ** 2
        self._kernels = self._plausible_kernels()

    def belief(self, positions: FloatArray, more: Sequence[Observation] = ()) -> Belief:
        """The figure at `positions` [n, dimensions].

        With `more`, the covariances are those after these observations too; their figures are ignored.
        """
        known = [*self.observations, *more]
        means, covariances = [], []
        errors = self._errors
        if more:
            errors = self.noise.covariance(known, known)
            errors[np.diag_indices_from(errors)] += (_JITTER * self._spread) ** 2
            errors[: len(self._errors), : len(self._errors)] = self._errors
        for kernel in self._kernels:
            cross = kernel(_positions(known), positions)
            root = np.linalg.cholesky(self._prior(kernel, known) + errors)
            solved = np.linalg.solve(root, cross)
            covariances.append(kernel(positions, positions) - solved.T @ solved)
            means.append(np.zeros(len(positions)) if more else solved.T @ np.linalg.solve(root, self._values))
        return Belief(np.stack(means), np.stack(covariances))

    def _prior(self, kernel: Kernel, known: Sequence[Observation]) -> FloatArray:
        """Covariance of the figures without errors: the curve, the offsets of levels and the variation of the bias."""
        positions = _positions(known)
        curve = kernel(positions, positions)
        levels = [o.level for o in known]
        same = np.array([[a == b for b in levels] for a in levels])
        beyond = self._bias * _BIAS_VARIATION * np.array([1 / o.num_samples - 1 / self._reference for o in known])
        varying = np.outer(beyond, beyond) * kernel.correlation(positions, positions)
        return np.asarray(curve + varying + same * (_OFFSET * self._spread) ** 2, np.float64)

    def _misfit(self) -> FloatArray:
        """Error of each observation that keeps poor networks from deciding how the curve bends near its minimum.

        A figure may be many times larger at the ends of a range. What exceeds the better half of a level is believed
        to within `_MISFIT` of the excess only.
        """
        misfit = np.zeros(len(self._values))
        for level in {o.level for o in self.observations}:
            mine = np.array([o.level == level for o in self.observations])
            values = self._values[mine]
            misfit[mine] = _MISFIT * np.maximum(values - values.min() - 2 * self._spread, 0)
        return misfit

    def _plausible_kernels(self) -> list[Kernel]:
        """Kernels drawn from their posterior: a fixed sample of the prior, weighed by likelihood and resampled."""
        normal = NormalDist()
        dimensions = len(self.observations[0].position)
        quantiles = low_discrepancy(_DRAWS, dimensions + 1)
        scores = np.vectorize(normal.inv_cdf)(quantiles)
        amplitudes = _amplitude(self.observations, self._spread) * np.exp(_AMPLITUDE_SPREAD * scores[:, 0])
        lengths = _LENGTH[0] * np.exp(_LENGTH[1] * scores[:, 1:])
        kernels = [Kernel(float(a), tuple(map(float, row))) for a, row in zip(amplitudes, lengths, strict=True)]
        logs = np.array([self._log_likelihood(kernel) for kernel in kernels])
        weights = np.exp(logs - logs.max())
        ends = np.cumsum(weights) / weights.sum()
        return [kernels[i] for i in np.searchsorted(ends, (np.arange(_KEPT) + 0.5) / _KEPT)]

    def _log_likelihood(self, kernel: Kernel) -> float:
        root = np.linalg.cholesky(self._prior(kernel, self.observations) + self._errors)
        white = np.linalg.solve(root, self._values)
        return float(-0.5 * white @ white - np.log(np.diag(root)).sum())


@dataclass(frozen=True)
class Kernel:
    """Matérn kernel with ν = 5/2: the curve has two continuous derivatives."""

    amplitude: float
    lengths: tuple[float, ...]

    def __call__(self, a: FloatArray, b: FloatArray) -> FloatArray:
        return self.amplitude**2 * self.correlation(a, b)

    def correlation(self, a: FloatArray, b: FloatArray) -> FloatArray:
        from sklearn.gaussian_process.kernels import Matern  # only services have it; importing it takes a second

        return np.asarray(Matern(self.lengths, nu=2.5)(a, b), np.float64)


def _about_means_of_levels(observations: Sequence[Observation]) -> FloatArray:
    """[n]: figures minus the mean of their level. The offset of the level takes up any constant."""
    values = np.array([o.figure.value for o in observations])
    levels = [o.level for o in observations]
    for level in dict.fromkeys(levels):
        mine = np.array([one == level for one in levels])
        values[mine] -= values[mine].mean()
    return values


def _spread(observations: Sequence[Observation]) -> float:
    """Typical difference from the best figure of the level with the most figures, at the better half of its points."""
    levels = [o.level for o in observations]
    widest = max(dict.fromkeys(levels), key=levels.count)
    values = np.array([o.figure.value for o in observations if o.level == widest])
    spread = float(np.median(values) - values.min()) or float(np.ptp(values))
    return spread or abs(float(values[0])) * 1e-6 or 1e-12


def _amplitude(observations: Sequence[Observation], spread: float) -> float:
    """Median of the kernel's amplitude in its prior: half the range of the figures, or twice their spread if larger.

    A curve may be flat within the errors at most points and rise at an end of the range.
    """
    levels = [o.level for o in observations]
    ranges = [np.ptp([o.figure.value for o in observations if o.level == level]) for level in dict.fromkeys(levels)]
    return max(2 * spread, float(max(ranges)) / 2)


def _bias(observations: Sequence[Observation]) -> float:
    """Bias of the figure times the number of pictures, from the jackknife: n (B - 1) (mean of replicates - value)."""
    found = [
        o.num_samples * (len(o.figure.replicates) - 1) * (float(np.mean(o.figure.replicates)) - o.figure.value)
        for o in observations
        if o.figure.replicates
    ]
    return float(np.median(found)) if found else 0.0


def _positions(observations: Sequence[Observation]) -> FloatArray:
    return np.array([o.position for o in observations], np.float64)
