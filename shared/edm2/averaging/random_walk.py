"""How much the weights of a run move, estimated from averages of them: what a wrong profile costs in weights.

Model: every weight is an independent random walk from an unknown start, with increments of variance

    E[(d theta)^2] = variance * (tau / end + 1e-4)^(-exponent) * d tau / end.

A combination of averages whose tail weights R(tau) differ from the wanted ones by dR(tau) then misses the wanted
average by a standard deviation of

    sqrt(integral of dR(tau)^2 * variance * (tau / end + 1e-4)^(-exponent) d tau / end),

if its coefficients sum to 1, so that the unknown start cancels. `phema.shared.edm2.averaging.posthoc.WeightErrorFit`
minimises this error. Karras et al. 2024 fit densities instead, which is right for weights that are white noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.weightings import Weighting

_SOFTENING = 1e-4
_PANELS = 1500
_EXPONENTS = np.arange(0.0, 2.01, 0.25)
_VARIANCES = np.geomspace(1e-8, 1e2, 121)


@dataclass(frozen=True)
class RandomWalk:
    """Model of weights up to `end` images. `variance` is in units of a squared weight."""

    variance: float
    exponent: float
    end: float

    def until(self, end: float) -> RandomWalk:
        """The same variance per image at every time, expressed for another `end`."""
        return RandomWalk(self.variance * (end / self.end) ** (1 - self.exponent), self.exponent, end)


DEFAULT_EXPONENT, DEFAULT_VARIANCE = 0.75, 0.02
"""Used for a run whose snapshots do not determine them. The variance is relative to the weights' mean square."""


@dataclass(frozen=True)
class TimeGrid:
    """Times at which tails are compared, and the share of each time in the integral above."""

    times: FloatArray
    shares: FloatArray

    @staticmethod
    def of(walk: RandomWalk, weightings: Sequence[Weighting]) -> TimeGrid:
        """A grid that is fine near the start and near the end, with an edge wherever a weighting ends."""
        end = walk.end
        ends = np.array(sorted({float(w.num_images) for w in weightings}))
        edges = np.concatenate(
            [
                [0.0, end],
                np.geomspace(_SOFTENING, 1.0, _PANELS // 2) * end,
                np.linspace(0.0, end, _PANELS),
                (1 - np.geomspace(1e-5, 0.3, _PANELS // 4)) * end,
                ends,
            ]
        )
        edges = np.unique(edges[edges <= end])
        times = (edges[1:] + edges[:-1]) / 2
        rate = (times / end + _SOFTENING) ** -walk.exponent
        return TimeGrid(times, walk.variance * rate * np.diff(edges) / end)

    def tails(self, weightings: Sequence[Weighting]) -> FloatArray:
        """[weightings, times]"""
        return np.stack([weighting.tail(self.times) for weighting in weightings])


def fit_random_walk(weightings: Sequence[Weighting], values: FloatArray, noise: FloatArray) -> RandomWalk | None:
    """The random walk under which `values` are most likely: restricted maximum likelihood, in which the starts cancel.

    `values` [weightings, weights] are averages of sampled weights; `noise` [weightings] is the standard deviation of
    their rounding. Returns None for fewer than 4 averages or 2 weights, or if the weights do not move.
    """
    count, weights = values.shape
    if count < 4 or weights < 2:
        return None
    end = max(float(w.num_images) for w in weightings)
    contrasts = np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, : count - 1]]))[0][:, 1:]
    # Whitened: in these units the covariance of the rounding is the identity.
    covariance = contrasts.T @ (noise[:, None] ** 2 * contrasts)
    whiten = np.linalg.solve(np.linalg.cholesky(covariance), contrasts.T)
    whitened = whiten @ values
    observed = whitened @ whitened.T / weights
    # The grids of all exponents have the same times: only the shares differ.
    grid = TimeGrid.of(RandomWalk(1.0, 0.0, end), weightings)
    tails = whiten @ grid.tails(weightings)
    weighted, softened = np.empty_like(tails), grid.times / end + _SOFTENING
    best: tuple[float, RandomWalk] | None = None
    for exponent in _EXPONENTS:
        # A product of a matrix with its own transpose takes half the time of any other product.
        np.multiply(tails, np.sqrt(grid.shares * softened**-exponent), out=weighted)
        moved = weighted @ weighted.T
        spread, axes = np.linalg.eigh(moved)
        along = np.einsum("ij,ij->j", axes, observed @ axes)
        scales = _VARIANCES * np.trace(observed) / np.trace(moved)
        expected = scales[:, None] * np.maximum(spread, 0.0) + 1
        likelihood = -(np.log(expected) + along / expected).sum(axis=1)
        top = int(np.argmax(likelihood))
        if best is None or likelihood[top] > best[0]:
            best = float(likelihood[top]), RandomWalk(float(scales[top]), float(exponent), end)
    assert best is not None, "_EXPONENTS is not empty"
    moves = best[1].variance > 0 and np.isfinite(best[0])
    return best[1] if moves else None
