"""The denoising loss and its uncertainty weighting (Karras et al. 2024, Eq. 14-28)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phema.shared.edm2.networks.denoiser import Denoiser


class LossOutput(NamedTuple):
    """Values per picture, each [N]. A step follows the gradient of `loss.sum() * loss_scaling / batch_size`."""

    loss: Tensor
    """lambda(sigma) / e^u * squared error + u, summed over the picture's elements; with gradient.

    Without an uncertainty head (configuration A), u is 0 and this is the plain weighted loss."""
    weighted_mse: Tensor
    """lambda(sigma) * mean squared error, detached. About 1 at every noise level for a network that outputs zero."""
    sigma: Tensor
    """Noise levels that were drawn."""


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, the inverse square of c_out."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def draw_sigma(
    count: int, *, p_mean: float, p_std: float, generator: torch.Generator | None = None, like: Tensor
) -> Tensor:
    """[count] training noise levels, ln sigma ~ N(p_mean, p_std^2), with the device and dtype of `like`."""
    z = torch.randn([count], generator=generator, device=like.device, dtype=like.dtype)
    return torch.exp(z * p_std + p_mean)


def uncertainty_loss(
    denoiser: Denoiser,
    images: Tensor,
    class_labels: Tensor | None,
    *,
    p_mean: float,
    p_std: float,
    generator: torch.Generator | None = None,
) -> LossOutput:
    """Loss of denoising `images` [N, C, H, W] at noise levels drawn from the training distribution (Eq. 21).

    `class_labels` is one-hot [N, label_dim] or None. Draws the N noise levels, then the noise, from `generator` (on the
    images' device; None for the global one).
    """
    sigma = draw_sigma(len(images), p_mean=p_mean, p_std=p_std, generator=generator, like=images)
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return denoising_loss(denoiser, images, class_labels, sigma=sigma, noise=noise)


def denoising_loss(
    denoiser: Denoiser, images: Tensor, class_labels: Tensor | None, *, sigma: Tensor, noise: Tensor
) -> LossOutput:
    """Loss of denoising `images` + `sigma` * `noise`, for given levels [N] and standard normal noise [N, C, H, W].

    Draws nothing, so that the loss of a batch does not depend on how it is divided.
    """
    denoised = denoiser(images + noise * sigma[:, None, None, None], sigma, class_labels)
    squared_error = (denoised - images).square().flatten(1).sum(dim=1)
    weighted = loss_weight(sigma, denoiser.sigma_data) * squared_error
    elements = images[0].numel()
    loss = weighted
    if denoiser.has_uncertainty:
        u = denoiser.logvar(sigma)
        loss = weighted * torch.exp(-u) + u * elements
    return LossOutput(loss=loss, weighted_mse=weighted.detach() / elements, sigma=sigma)
