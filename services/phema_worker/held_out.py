"""Denoising loss on pictures kept from training: a figure that needs no sampling."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from shared.edm2.layers import frozen_weights
from shared.edm2.loss import loss_weight
from shared.edm2.precond import Denoiser

NUM_LEVELS = 8
_SEED = 297


def sigma_grid(p_mean: float, p_std: float, levels: int = NUM_LEVELS) -> tuple[float, ...]:
    """Noise levels at the midpoints of equally likely parts of the training distribution ln σ ~ N(p_mean, p_std²)."""
    normal = NormalDist(p_mean, p_std)
    return tuple(math.exp(normal.inv_cdf((i + 0.5) / levels)) for i in range(levels))


@torch.inference_mode()
def held_out_loss(
    denoiser: Denoiser,
    images: Tensor,
    class_labels: Tensor | None,
    *,
    p_mean: float,
    p_std: float,
    batch_size: int,
) -> float:
    """Mean of λ(σ) · (D(y + n; σ) - y)² over pictures, pixels and the noise levels of `sigma_grid`.

    `images` float32 [N, C, H, W] and one-hot `class_labels` float32 [N, label_dim] lie on the denoiser's device. λ is
    the weight of EDM's loss (1 for a network that outputs nothing), not the learned one, and the noise is the same
    for every network: figures of one run compare, whatever the EMA length.
    """
    total = 0.0
    sigmas = sigma_grid(p_mean, p_std)
    with frozen_weights(denoiser.eval()):
        for level, sigma in enumerate(sigmas):
            generator = torch.Generator().manual_seed(_SEED + level)
            noise = torch.randn(images.shape, generator=generator).to(images.device) * sigma
            squared = 0.0
            for part in range(0, len(images), batch_size):
                clean = images[part : part + batch_size]
                labels = None if class_labels is None else class_labels[part : part + batch_size]
                error = denoiser(clean + noise[part : part + batch_size], sigma, labels) - clean
                squared += error.double().square().sum().item()
            total += squared * loss_weight(torch.tensor(sigma, dtype=torch.float64), denoiser.sigma_data).item()
    return total / (len(sigmas) * images.numel())
