"""The space of a search for a learned average: mixtures of a few averages of one run at one time. Torch-free.

A mixture is a linear combination whose weights sum to 1. Its coordinates are the principal directions in which the
family differs, each scaled to how far the family reaches along it. The family's averages are nearly the same weights,
so the weights of a mixture would be bad coordinates: most directions hardly change the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.random_walk import DEFAULT_EXPONENT, RandomWalk, TimeGrid
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile


class MixtureSpace:
    """Mixtures of `family`, as points [dimensions] around its member `start`, which is the origin.

    Raises WeightingError for a profile that is impossible at `num_images`.
    """

    def __init__(self, family: Sequence[Profile], start: int, num_images: int) -> None:
        self.family, self._start = tuple(family), start
        others = [i for i in range(len(family)) if i != start]
        weightings = [weighting(profile, num_images) for profile in family]
        # Distances of weights, for weights that move as those of a usual run. Only their ratios matter.
        grid = TimeGrid.of(RandomWalk(1.0, DEFAULT_EXPONENT, float(num_images)), weightings)
        tails = grid.tails(weightings) * np.sqrt(grid.shares)
        left, sizes, _ = np.linalg.svd(tails[others] - tails[start], full_matrices=False)
        kept = sizes > sizes[0] * len(family) * np.finfo(np.float64).eps
        steps = np.zeros((len(others), len(family)))
        steps[np.arange(len(others)), others] = 1.0
        steps[:, start] = -1.0
        # Row k of `left.T @ steps` moves the weights by sizes[k], the reach of the whole family along direction k.
        self._directions: FloatArray = (left.T @ steps)[kept] / np.sqrt(len(others))

    @property
    def dimensions(self) -> int:
        return len(self._directions)

    def weights(self, point: FloatArray) -> tuple[float, ...]:
        """Weights of the family's members at a point, in order. Their sum is 1."""
        weights = point @ self._directions
        weights[self._start] = 1.0 - np.delete(weights, self._start).sum()
        return tuple(map(float, weights))

    def mixture(self, point: FloatArray) -> Profile:
        """The average at a point."""
        return Profile(kind="mixture", profiles=self.family, weights=self.weights(point))
