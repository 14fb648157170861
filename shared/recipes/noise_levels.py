"""Ranges of noise levels, by which the training loss is measured. Torch-free."""

from __future__ import annotations

import math
from statistics import NormalDist


def noise_level_edges(bins: int, *, p_mean: float, p_std: float) -> list[float]:
    """The `bins` - 1 noise levels between bins that are equally likely when ln sigma ~ N(p_mean, p_std^2).

    The first bin begins at 0, the last one has no upper end. A noise level equal to an edge is in the bin above it.
    """
    levels = NormalDist(p_mean, p_std)
    return [math.exp(levels.inv_cdf(i / bins)) for i in range(1, bins)]
