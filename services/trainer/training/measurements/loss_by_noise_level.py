"""The loss by noise level: where on the way from noise to picture a network still learns."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor


def noise_level_edges(bins: int, *, p_mean: float, p_std: float) -> list[float]:
    """The `bins` - 1 noise levels between bins that are equally likely in training, ln sigma ~ N(p_mean, p_std^2).

    The first bin reaches down to 0, the last up to infinity; an edge belongs to the bin above it.
    """
    levels = NormalDist(p_mean, p_std)
    return [math.exp(levels.inv_cdf(i / bins)) for i in range(1, bins)]


class LossByNoiseLevel:
    """Sums of the plain weighted loss and numbers of pictures by bin of the noise level, on `device`."""

    def __init__(self, bins: int, *, p_mean: float, p_std: float, device: torch.device) -> None:
        self._edges = torch.tensor(noise_level_edges(bins, p_mean=p_mean, p_std=p_std), device=device)
        self.sums = torch.zeros(2, bins, device=device, dtype=torch.float64)
        """[sums, numbers of pictures]; may be summed over workers."""

    def add(self, sigma: Tensor, weighted_mse: Tensor) -> None:
        """Count pictures in: noise levels [N], lambda-weighted mean squared errors [N]. Waits for no device."""
        places = torch.bucketize(sigma, self._edges, right=True)
        self.sums.index_add_(1, places, torch.stack([weighted_mse, torch.ones_like(weighted_mse)]).double())

    def values(self) -> dict[str, float]:
        """`loss_by_noise/<bin>`: means; a bin that no picture fell into has none."""
        totals, counts = self.sums.tolist()
        pairs = enumerate(zip(totals, counts, strict=True))
        return {f"loss_by_noise/{place}": total / count for place, (total, count) in pairs if count}
