"""Draws the pictures of a sample request, batch by batch, as pixels with their classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.guidance import guided_steps
from phema.shared.edm2.sampling.heun import sigma_steps
from phema.shared.edm2.sampling.sampler import Labels, pictures_at_once, random_classes, sample_batches
from phema.shared.pictures.pixels import to_pixels
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.recipes.sampler_settings import SamplerSettings

_BATCH_ACTIVATIONS = 2**24
"""Most activations that a batch on a GPU may have in the network's widest map: 21 pictures of EDM2-S."""
_LARGEST_BATCH = 256


class NotFinite(ValueError):
    """A drawn picture is not finite. The message is one sentence."""


@dataclass(frozen=True)
class Drawn:
    """Pictures of consecutive entries of the request's seeds."""

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    """Class of each picture; None without classes."""
    pixels: NDArray[np.uint8]
    """[n, H, W, 1 or 3]; latents are decoded."""


def draw(
    denoiser: Denoiser,
    guide: Denoiser | None,
    request: SampleRequest,
    *,
    label: int | Literal["random"] | NDArray[np.float32] | None,
    vae: str | None = None,
    on_evaluation: Callable[[], None] = lambda: None,
) -> Iterator[Drawn]:
    """Draw all pictures of the request. An evaluation draws the same picture from the same seed, class and settings.

    Args:
        label: the class of every picture, as `SampleRequest.label` returns it; or a label vector for each, float32
            [n, D].
        vae: folder or hub id of the AutoencoderKL that decodes latents; None for a network that draws pictures.
        on_evaluation: called before each evaluation of a network. What it raises ends the drawing.

    Raises NotFinite, SamplerError (the guide does not fit), and DatasetError and HubUnreachable of the VAE.
    """
    device, start = next(denoiser.parameters()).device, 0
    labels: Labels = [label] * len(request.seeds) if isinstance(label, int) else _tensor(label)
    for pictures in drawn_batches(denoiser, guide, request, request.seeds, labels, on_evaluation=on_evaluation):
        seeds = request.seeds[start : start + len(pictures)]
        start += len(pictures)
        if vae is not None:
            from phema.shared.datasets.preparation.vae import decode  # diffusers takes seconds to import

            pictures = decode(pictures, vae, device)
        yield Drawn(seeds, _labels(denoiser, seeds, label), to_pixels(pictures.numpy()))


def drawn_batches(
    denoiser: Denoiser,
    guide: Denoiser | None,
    settings: SamplerSettings,
    seeds: Sequence[int],
    class_labels: Labels,
    *,
    on_evaluation: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Draw pictures in batches, float32 [n, C, H, W] on the CPU. Picture i depends on seeds[i] and its class only.

    `on_evaluation` is called before each evaluation of a network. What it raises ends the drawing. Raises NotFinite and
    SamplerError (the guide does not fit).
    """
    with ExitStack() as hooks:
        for network in (denoiser, guide):
            if network is not None:
                hooks.callback(network.register_forward_pre_hook(lambda *_: on_evaluation()).remove)
        for pictures in sample_batches(
            denoiser,
            seeds=seeds,
            class_labels=class_labels,
            sigmas=sigma_steps(settings.num_steps, settings.sigma_min, settings.sigma_max, settings.rho),
            churn=settings.churn,
            churn_min=settings.churn_min,
            churn_max=math.inf if settings.churn_max is None else settings.churn_max,
            churn_noise=settings.churn_noise,
            guide=guide,
            guidance=settings.guidance,
            guidance_interval=settings.guidance_interval,
            batch_size=batch_size(denoiser),
        ):
            if not torch.isfinite(pictures).all():
                raise NotFinite(
                    "a drawn picture holds values that are not finite; these weights cannot be sampled in this way"
                )
            yield pictures


def num_evaluations(denoiser: Denoiser, guide: Denoiser | None, settings: SamplerSettings, count: int) -> int:
    """How often `drawn_batches` calls `on_evaluation` for `count` pictures.

    Per batch twice in each Heun step and once in the last, and as often again for the guide at guided steps.
    """
    sigmas = sigma_steps(settings.num_steps, settings.sigma_min, settings.sigma_max, settings.rho)
    guided = guided_steps(sigmas, settings.guidance_interval)
    guiding = guide is not None and settings.guidance != 1
    per_step = [2] * (settings.num_steps - 1) + [1]
    per_batch = sum(calls * (1 + (guiding and one)) for calls, one in zip(per_step, guided, strict=True))
    return math.ceil(count / pictures_at_once(denoiser, batch_size(denoiser))) * per_batch


def _tensor(label: Literal["random"] | NDArray[np.float32] | None) -> Literal["random"] | Tensor | None:
    return torch.from_numpy(label) if isinstance(label, np.ndarray) else label


def _labels(
    denoiser: Denoiser, seeds: tuple[int, ...], label: int | str | NDArray[np.float32] | None
) -> tuple[int, ...] | None:
    if isinstance(label, str):
        drawn = random_classes(denoiser, seeds)
        return None if drawn is None else tuple(drawn)
    return (label,) * len(seeds) if isinstance(label, int) else None


def batch_size(denoiser: Denoiser) -> int:
    """Pictures per batch on a GPU, so that the memory of a batch does not depend on the network."""
    widest = max(resolution * resolution * channels for resolution, channels in denoiser.config.levels)
    return max(1, min(_LARGEST_BATCH, _BATCH_ACTIVATIONS // widest))
