"""Denoising loss on pictures that were kept from training. It needs no sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from phema.shared.datasets import DatasetError, Pictures
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import frozen_weights
from phema.shared.edm2.training.loss import loss_weight
from phema.shared.metrics.scoring import ScoringInputs

NUM_LEVELS = 8
_SEED = 297


def work(inputs: ScoringInputs) -> int:
    return len(inputs.dataset.held_out) * NUM_LEVELS


def compute(inputs: ScoringInputs) -> dict[str, float]:
    """Raises DatasetError if the run kept no pictures from training, or they cannot be read."""
    inputs.announce("denoising held-out pictures")
    if not len(inputs.dataset.held_out):
        raise DatasetError(
            "dataset.held_out of the run is 0, so no pictures were kept for held_out_loss; leave it out of metrics"
        )
    loss = held_out_loss(
        inputs.denoiser,
        inputs.dataset.held_out,
        p_mean=inputs.p_mean,
        p_std=inputs.p_std,
        batch_size=inputs.batch_size,
        advance=inputs.advance,
    )
    return {"held_out_loss": loss}


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

    `pictures` are read once, `batch_size` at a time; a network with classes is given theirs. λ is the weight of EDM's
    loss, with which a network that outputs 0 has a loss of 1, and not the learned weight. The noise is the same for
    every network and batch size, so that figures of one run can be compared across EMA lengths. After each batch
    `advance` gets the number of evaluations, in pictures; it may raise to stop. Raises DatasetError.
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
    """Standard normal noise that does not depend on how the pictures are divided into batches.

    torch draws numbers in groups of 16, so each picture takes a multiple of 16 numbers.
    """
    count, size = shape[0], shape[1:].numel()
    return torch.randn(count, -(-size // 16) * 16, generator=generator)[:, :size].reshape(shape)
