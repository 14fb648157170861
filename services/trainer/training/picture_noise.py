"""Noise levels and noise of training pictures, seeded per picture and so independent of batches and workers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phema.shared.edm2.seeding import picture_seeds


def picture_noise(
    seed: int, positions: NDArray[np.int64], shape: tuple[int, ...], *, p_mean: float, p_std: float
) -> tuple[Tensor, Tensor]:
    """Draw (sigma [N], noise [N, *shape]), both float32 on the CPU: ln sigma ~ N(p_mean, p_std^2), noise ~ N(0, 1).

    Entry i depends only on `seed` and `positions[i]`, the number of images that the run had seen before that picture.
    The generator is seeded again for every picture and yields its noise level and its noise in one draw.
    """
    generator = torch.Generator()
    drawn = torch.empty(len(positions), 1 + int(np.prod(shape)))
    for row, picture_seed in zip(drawn, picture_seeds(seed, positions, "noise").tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(picture_seed))
    sigma = torch.exp(drawn[:, 0] * p_std + p_mean)
    return sigma, drawn[:, 1:].reshape(len(positions), *shape)
