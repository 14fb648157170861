"""The training loss by noise level: shows at which noise levels the network still improves."""

from __future__ import annotations

import torch
from torch import Tensor

from phema.shared.recipes.noise_levels import noise_level_edges


class LossByNoiseLevel:
    """Sums of the plain weighted loss, and numbers of pictures, by bin of the noise level."""

    def __init__(self, bins: int, *, p_mean: float, p_std: float, device: torch.device) -> None:
        self._edges = torch.tensor(noise_level_edges(bins, p_mean=p_mean, p_std=p_std), device=device)
        self.sums = torch.zeros(2, bins, device=device, dtype=torch.float64)
        """Row 0: sums of the loss; row 1: numbers of pictures. May be summed over workers in place."""

    def add(self, sigma: Tensor, weighted_mse: Tensor) -> None:
        """Add pictures: noise levels [N] and lambda-weighted mean squared errors [N]. Does not wait for the device."""
        bins = torch.bucketize(sigma, self._edges, right=True)
        self.sums.index_add_(1, bins, torch.stack([weighted_mse, torch.ones_like(weighted_mse)]).double())

    def means(self) -> dict[str, float]:
        """`loss_by_noise/<bin>`: the mean loss of each bin that holds a picture."""
        totals, counts = self.sums.tolist()
        pairs = enumerate(zip(totals, counts, strict=True))
        return {f"loss_by_noise/{number}": total / count for number, (total, count) in pairs if count}
