"""The randomness of training pictures: of each one alone, whatever batch, worker or part of a batch it falls in."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phema.shared.edm2.seeding import picture_seeds


def picture_noise(
    seed: int, positions: NDArray[np.int64], shape: tuple[int, ...], *, p_mean: float, p_std: float
) -> tuple[Tensor, Tensor]:
    """(noise levels [N], ln sigma ~ N(p_mean, p_std^2); standard normal noise [N, *shape]), float32 on the CPU.

    Entry i follows from `seed` and `positions[i]`, the images the run had seen before that picture: from one
    generator that is seeded anew per picture and gives level and noise in one draw.
    """
    generator = torch.Generator()
    drawn = torch.empty(len(positions), 1 + int(np.prod(shape)))
    for row, picture_seed in zip(drawn, picture_seeds(seed, positions, "noise").tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(picture_seed))
    sigma = torch.exp(drawn[:, 0] * p_std + p_mean)
    return sigma, drawn[:, 1:].reshape(len(positions), *shape)
