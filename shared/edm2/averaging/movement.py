"""How much the weights of a run move, learnt from averages of them: what a profile's misfit costs in weights.

Weights are taken for random walks from unknown starts: E[(d theta)^2] = variance * (tau / end + 1e-4)^(-exponent)
* d tau / end, alike and independent for all weights. A combination of averages whose tail weights R(tau) differ from
the wanted ones by dR(tau) then misses the wanted average by the standard deviation

    sqrt(integral of dR(tau)^2 * variance * (tau / end + 1e-4)^(-exponent) d tau / end),

if its coefficients sum to 1; the unknown starts cancel. This is the metric in which
`phema.shared.edm2.averaging.posthoc.AwareProblem` fits.
Karras et al. 2024 fit densities instead, which would be right for weights that are noise without memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phema.shared.edm2.averaging.weightings import FloatArray, Profile

_SOFTENING = 1e-4
_PANELS = 1500
_EXPONENTS = np.arange(0.0, 2.01, 0.25)
_VARIANCES = np.geomspace(1e-8, 1e2, 121)


@dataclass(frozen=True)
class Movement:
    """Of weights up to `end` images. `variance` is in units of a squared weight."""

    variance: float
    exponent: float
    end: float

    def until(self, end: float) -> Movement:
        """The same rate at every time, told of weights up to another `end`."""
        return Movement(self.variance * (end / self.end) ** (1 - self.exponent), self.exponent, end)


USUAL_EXPONENT, USUAL_VARIANCE = 0.75, 0.02
"""Of a run that says nothing of itself; the variance is relative to the weights' mean square."""


@dataclass(frozen=True)
class Grid:
    """Times at which tails are compared, and each one's share of the integral."""

    times: FloatArray
    shares: FloatArray

    @staticmethod
    def of(movement: Movement, profiles: Sequence[Profile]) -> Grid:
        """Fine towards the start, the end, and beside every time at which a profile ends."""
        end = movement.end
        ends = np.array(sorted({float(p.num_images) for p in profiles}))
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
        rate = (times / end + _SOFTENING) ** -movement.exponent
        return Grid(times, movement.variance * rate * np.diff(edges) / end)

    def tails(self, profiles: Sequence[Profile]) -> FloatArray:
        """[profiles, times]"""
        return np.stack([profile.tail(self.times) for profile in profiles])


def fit_movement(profiles: Sequence[Profile], values: FloatArray, noise: FloatArray) -> Movement | None:
    """The movement under which `values` are most likely (restricted maximum likelihood, so that starts cancel).

    `values` [profiles, weights] are averages of sampled weights, `noise` [profiles] the standard deviation of their
    rounding. None when there are too few profiles or values to tell, or the weights do not move.
    """
    count, weights = values.shape
    if count < 4 or weights < 2:
        return None
    end = max(float(p.num_images) for p in profiles)
    contrasts = np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, : count - 1]]))[0][:, 1:]
    # In units of the noise, which makes the rounding's covariance the identity.
    rounding = np.linalg.cholesky(contrasts.T @ (noise[:, None] ** 2 * contrasts))
    whitened = np.linalg.solve(rounding, contrasts.T @ values)
    observed = whitened @ whitened.T / weights
    # The times of a grid are the same for every exponent.
    grids = [Grid.of(Movement(1.0, float(exponent), end), profiles) for exponent in _EXPONENTS]
    tails = np.linalg.solve(rounding, contrasts.T @ grids[0].tails(profiles))
    best: tuple[float, Movement] | None = None
    for exponent, grid in zip(_EXPONENTS, grids, strict=True):
        moved = (tails * grid.shares) @ tails.T
        spread, axes = np.linalg.eigh((moved + moved.T) / 2)
        along = np.einsum("ij,ij->j", axes, observed @ axes)
        scales = _VARIANCES * np.trace(observed) / np.trace(moved)
        expected = scales[:, None] * np.maximum(spread, 0.0) + 1
        likelihood = -(np.log(expected) + along / expected).sum(axis=1)
        top = int(np.argmax(likelihood))
        if best is None or likelihood[top] > best[0]:
            best = float(likelihood[top]), Movement(float(scales[top]), float(exponent), end)
    assert best is not None, "there are exponents to try"
    moves = best[1].variance > 0 and np.isfinite(best[0])
    return best[1] if moves else None
