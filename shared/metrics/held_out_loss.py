"""Denoising loss on pictures that were kept from training, in total and by noise level."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from phema.shared.datasets import DatasetError, Pictures
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.label_rows import label_rows
from phema.shared.edm2.networks.layers import frozen_weights
from phema.shared.edm2.training.loss import loss_weight
from phema.shared.metrics.figures import FigureValue, mean_of
from phema.shared.metrics.network_inputs import NetworkInputs
from phema.shared.metrics.offered.held_out_loss import NUM_LEVELS

_SEED = 297


def sigma_grid(p_mean: float, p_std: float, levels: int = NUM_LEVELS) -> tuple[float, ...]:
    """Noise levels at the midpoints of equally likely parts of the training distribution ln σ ~ N(p_mean, p_std²)."""
    normal = NormalDist(p_mean, p_std)
    return tuple(math.exp(normal.inv_cdf((i + 0.5) / levels)) for i in range(levels))


@torch.inference_mode()
def measure(
    denoiser: Denoiser,
    pictures: Pictures,
    *,
    p_mean: float,
    p_std: float,
    batch_size: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> dict[str, FigureValue]:
    """Mean of λ(σ) · (D(y + n; σ) - y)² over pictures and pixels, at each level of `sigma_grid` and over all levels.

    `pictures` are read once, `batch_size` at a time; a network with classes is given theirs. λ is the weight of EDM's
    loss, with which a network that outputs 0 has a loss of 1, and not the learned weight. The noise is the same for
    every network and batch size, so figures of one run can be compared across EMA lengths, with the error of their
    difference. Level 1 is the lowest. The standard error is over pictures.

    After each batch `advance` gets the number of evaluations, in pictures; it may raise to stop. Raises DatasetError
    if there are no pictures or they cannot be read.
    """
    if not len(pictures):
        raise DatasetError(
            "dataset.held_out of the run is 0, so no pictures were kept for held_out_loss; leave it out of metrics"
        )
    network, device = denoiser.config, next(denoiser.parameters()).device
    sigmas = sigma_grid(p_mean, p_std)
    weights = loss_weight(torch.tensor(sigmas, dtype=torch.float64), denoiser.sigma_data).tolist()
    generators = [torch.Generator().manual_seed(_SEED + level) for level in range(len(sigmas))]
    losses = np.empty((len(pictures), len(sigmas)))
    with frozen_weights(denoiser.eval()):
        for start in range(0, len(pictures), batch_size):
            stop = min(start + batch_size, len(pictures))
            images, given = pictures.batch(np.arange(start, stop))
            clean = torch.from_numpy(images).to(device)
            rows = label_rows(given, network.label_dim)
            labels = None if rows is None else rows.to(device)
            for level, sigma in enumerate(sigmas):
                noise = _noise(clean.shape, generators[level]).to(device) * sigma
                error = denoiser(clean + noise, sigma, labels) - clean
                losses[start:stop, level] = error.double().square().flatten(1).mean(1).cpu() * weights[level]
            advance(len(clean) * len(sigmas))
    by_level = {f"held_out_loss_level_{i + 1}": mean_of(losses[:, i]) for i in range(len(sigmas))}
    return {"held_out_loss": mean_of(losses.mean(1))} | by_level


def measure_network(inputs: NetworkInputs) -> dict[str, FigureValue]:
    """`measure`, as the registry calls it."""
    return measure(
        inputs.denoiser,
        inputs.held_out,
        p_mean=inputs.p_mean,
        p_std=inputs.p_std,
        batch_size=inputs.batch_size,
        advance=inputs.advance,
    )


def _noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal noise that does not depend on how the pictures are divided into batches.

    torch draws numbers in groups of 16, so each picture takes a multiple of 16 numbers.
    """
    count, size = shape[0], shape[1:].numel()
    return torch.randn(count, -(-size // 16) * 16, generator=generator)[:, :size].reshape(shape)
