"""Heun's sampler and guidance by a second network (Karras et al. 2022, Algorithms 1 and 2; 2024, Eq. 152).

Samplers are pure functions of a denoiser: any callable (x [N, C, H, W], sigma scalar) -> D(x; sigma).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from shared.edm2.layers import frozen_weights
from shared.edm2.precond import Denoiser

Denoise = Callable[[Tensor, Tensor], Tensor]
Labels = Sequence[int] | Tensor | Literal["random"] | None


class SamplerError(ValueError):
    """The request cannot be sampled."""


def sigma_steps(num_steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """[num_steps + 1] float64 noise levels from sigma_max to sigma_min, evenly spaced in sigma^(1 / rho), then 0."""
    if num_steps < 2:
        raise SamplerError(f"num_steps {num_steps} must be at least 2")
    if not 0 < sigma_min < sigma_max:
        raise SamplerError(f"sigma_min {sigma_min:g} must be above 0 and below sigma_max {sigma_max:g}")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(start + ramp * (end - start)) ** rho, torch.zeros(1, dtype=torch.float64)])


def heun(
    denoise: Denoise,
    noise: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    randn: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Picture from unit `noise` [N, C, H, W] along `sigmas` (descending, the last 0), second order.

    Every step but the last is corrected, so that N steps cost 2 N - 1 evaluations. With `churn` > 0 noise of
    `churn_noise` times unit strength, drawn by `randn` in the shape of `noise`, is added at the levels between
    `churn_min` and `churn_max`.
    """
    if churn > 0 and randn is None:
        raise SamplerError(f"churn {churn:g} adds noise and needs randn; only churn 0 does without")
    levels = [float(sigma) for sigma in sigmas]
    x = noise * levels[0]
    share = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    for level, sigma_next in itertools.pairwise(levels):
        sigma = level
        if randn is not None and share > 0 and churn_min <= level <= churn_max:
            sigma = level * (1 + share)
            x = x + math.sqrt(sigma**2 - level**2) * churn_noise * randn()
        slope = (x - denoise(x, x.new_full([], sigma))) / sigma
        euler = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            corrected = (euler - denoise(euler, x.new_full([], sigma_next))) / sigma_next
            euler = x + (sigma_next - sigma) * (slope + corrected) / 2
        x = euler
    return x


def guided(main: Denoise, guide: Denoise, weight: float) -> Denoise:
    """guide + weight * (main - guide): away from the guide for weights above 1, exactly `main` for 1.

    The guide may be an unconditional network (classifier-free guidance) or a worse version of the main one
    (autoguidance).
    """
    if weight == 1:
        return main

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(guide(x, sigma), main(x, sigma), weight)

    return denoise


def sample(
    denoiser: Denoiser,
    *,
    seeds: Sequence[int],
    class_labels: Labels = "random",
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    churn: float = 0.0,
    guide: Denoiser | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Tensor:
    """One picture per seed: float32 [len(seeds), C, H, W] on the CPU, about -1 to 1 for data scaled so.

    Each picture has its own generator, which draws its noise and then, for `class_labels` "random", its class, so
    that a picture depends on its seed alone. Other labels: class indices or one-hot rows, one per seed, or None for
    "no label". The network (and guide) is moved to `device`, unless None, and runs in evaluation mode.

    A GPU makes `batch_size` pictures at once. A CPU's kernels round differently for different batch sizes, so there
    a number fixed by the resolution is made at once, and a picture is the same, bit for bit, in any company.
    Raises SamplerError.
    """
    batches = sample_batches(
        denoiser,
        seeds=seeds,
        class_labels=class_labels,
        sigmas=sigma_steps(num_steps, sigma_min, sigma_max, rho),
        churn=churn,
        guide=guide,
        guidance=guidance,
        batch_size=batch_size,
        device=device,
    )
    config = denoiser.config
    empty = torch.zeros([0, config.img_channels, config.img_resolution, config.img_resolution])
    return torch.cat([empty, *batches])


def sample_batches(
    denoiser: Denoiser,
    *,
    seeds: Sequence[int],
    class_labels: Labels = "random",
    sigmas: Tensor,
    churn: float = 0.0,
    guide: Denoiser | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """`sample` batch by batch, for callers that report progress or stop early; takes the noise levels themselves."""
    _check(denoiser, guide, guidance, batch_size)
    one_hot = _one_hot(class_labels, len(seeds), denoiser.config.label_dim)
    networks = [denoiser] if guide is None or guidance == 1 else [denoiser, guide]
    target = torch.device(device) if device is not None else next(denoiser.parameters()).device
    at_once = _cpu_batch(denoiser) if target.type == "cpu" else batch_size
    for start in range(0, len(seeds), at_once):
        part = range(start, min(start + at_once, len(seeds)))
        rows = [*part, *[part[-1]] * (at_once - len(part))] if target.type == "cpu" else list(part)
        generators = [torch.Generator().manual_seed(int(seeds[i])) for i in rows]
        noise = _randn(generators, denoiser).to(target)
        labels = one_hot[rows] if one_hot is not None else None
        if isinstance(class_labels, str) and denoiser.config.label_dim:
            labels = _random_one_hot(generators, denoiser.config.label_dim)
        with _inference(networks, target):
            denoise = _denoise_by(networks, guidance, labels.to(target) if labels is not None else None)
            randn = _churn_noise(generators, denoiser, target) if churn > 0 else None
            pictures = heun(denoise, noise, sigmas, churn=churn, randn=randn)
        yield pictures[: len(part)].to("cpu", torch.float32)


def _cpu_batch(denoiser: Denoiser) -> int:
    """Pictures a CPU makes at once: enough that small ones share overheads, one from 64 x 64 on."""
    return max(1, 2048 // denoiser.config.img_resolution**2)


@contextmanager
def _inference(networks: Sequence[Denoiser], device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, each weight normalised once; modes are restored afterwards."""
    modes = [network.training for network in networks]
    for network in networks:
        network.to(device).eval()
    try:
        with torch.no_grad(), frozen_weights(*networks):
            yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


def _denoise_by(networks: Sequence[Denoiser], guidance: float, labels: Tensor | None) -> Denoise:
    def by(network: Denoiser) -> Denoise:
        return lambda x, sigma: network(x, sigma, labels)

    return by(networks[0]) if len(networks) == 1 else guided(by(networks[0]), by(networks[1]), guidance)


def _randn(generators: Sequence[torch.Generator], denoiser: Denoiser) -> Tensor:
    config = denoiser.config
    shape = [config.img_channels, config.img_resolution, config.img_resolution]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _churn_noise(
    generators: Sequence[torch.Generator], denoiser: Denoiser, device: torch.device
) -> Callable[[], Tensor]:
    return lambda: _randn(generators, denoiser).to(device)


def _random_one_hot(generators: Sequence[torch.Generator], label_dim: int) -> Tensor:
    classes = [torch.randint(label_dim, [], generator=generator) for generator in generators]
    return torch.nn.functional.one_hot(torch.stack(classes), label_dim).float()


def _one_hot(labels: Labels, count: int, label_dim: int) -> Tensor | None:
    """[count, label_dim] float rows, or None where there is nothing to tell the network."""
    if labels is None or isinstance(labels, str) or not label_dim:
        return None
    given = torch.as_tensor(labels)
    if given.ndim == 2 and given.shape == (count, label_dim):
        return given.float()
    if given.ndim != 1 or len(given) != count:
        raise SamplerError(
            f"class_labels has shape {tuple(given.shape)} for {count} seeds; give one class index per seed "
            f"or one-hot rows ({count}, {label_dim})"
        )
    if count and not 0 <= int(given.min()) <= int(given.max()) < label_dim:
        raise SamplerError(f"class_labels {given.tolist()} must lie between 0 and {label_dim - 1}")
    return torch.nn.functional.one_hot(given.long(), label_dim).float()


def _check(denoiser: Denoiser, guide: Denoiser | None, guidance: float, batch_size: int) -> None:
    if batch_size < 1:
        raise SamplerError(f"batch_size {batch_size} must be at least 1")
    if guide is None:
        if guidance != 1:
            raise SamplerError(f"guidance {guidance:g} needs a guide; only guidance 1 samples without one")
        return
    main, other = denoiser.config, guide.config
    if (main.img_channels, main.img_resolution) != (other.img_channels, other.img_resolution):
        raise SamplerError(
            f"the guide makes {other.img_channels}x{other.img_resolution}x{other.img_resolution} pictures, "
            f"the network {main.img_channels}x{main.img_resolution}x{main.img_resolution}; they must agree"
        )
    if other.label_dim not in (0, main.label_dim):
        raise SamplerError(
            f"the guide has label_dim {other.label_dim}, the network {main.label_dim}; they must agree, "
            f"or the guide be unconditional"
        )
