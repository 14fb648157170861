"""Denoising loss on pictures kept from training: a figure that needs no sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from phema.shared.datasets import Pictures
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import frozen_weights
from phema.shared.edm2.training.loss import loss_weight

NUM_LEVELS = 8
_SEED = 297


def sigma_grid(p_mean: float, p_std: float, levels: int = NUM_LEVELS) -> tuple[float, ...]:
    """Noise levels at the midpoints of equally likely parts of the training distribution ln σ ~ N(p_mean, p_std²)."""
    normal = NormalDist(p_mean, p_std)
    return tuple(math.exp(normal.inv_cdf((i + 0.5) / levels)) for i in range(levels))


@torch.inference_mode()
def held_out_loss(
    denoiser: Denoiser,
    pictures: Pictures,
    *,
    p_mean: float,
    p_std: float,
    batch_size: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> float:
    """Mean of λ(σ) · (D(y + n; σ) - y)² over pictures, pixels and the noise levels of `sigma_grid`.

    `pictures` are read once, `batch_size` at a time; the network sees their classes if it knows any. λ is the weight
    of EDM's loss (1 for a network that outputs nothing), not the learned one, and the noise is the same for every
    network and batch size: figures of one run compare, whatever the EMA length. `advance` is told the number of
    evaluations, in pictures, after each batch and may raise to stop. Raises DatasetError.
    """
    network, device = denoiser.config, next(denoiser.parameters()).device
    sigmas = sigma_grid(p_mean, p_std)
    generators = [torch.Generator().manual_seed(_SEED + level) for level in range(len(sigmas))]
    squared, values = [0.0] * len(sigmas), 0
    with frozen_weights(denoiser.eval()):
        for start in range(0, len(pictures), batch_size):
            images, numbers = pictures.batch(np.arange(start, min(start + batch_size, len(pictures))))
            clean = torch.from_numpy(images).to(device)
            labels = (
                one_hot(torch.from_numpy(numbers), network.label_dim).float().to(device) if network.label_dim else None
            )
            for level, sigma in enumerate(sigmas):
                noise = _noise(clean.shape, generators[level]).to(device) * sigma
                error = denoiser(clean + noise, sigma, labels) - clean
                squared[level] += error.double().square().sum().item()
            values += clean.numel()
            advance(len(clean) * len(sigmas))
    weights = loss_weight(torch.tensor(sigmas, dtype=torch.float64), denoiser.sigma_data).tolist()
    total: float = sum(part * weight for part, weight in zip(squared, weights, strict=True))
    return total / (len(sigmas) * values)


def _noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal. Each picture takes a multiple of 16 numbers, because torch draws them by 16: so the noise does
    not depend on how the pictures are divided into batches."""
    count, size = shape[0], shape[1:].numel()
    return torch.randn(count, -(-size // 16) * 16, generator=generator)[:, :size].reshape(shape)
