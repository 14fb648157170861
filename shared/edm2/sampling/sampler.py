"""Draw pictures from a network, one per seed, with or without guidance, independent of the batches they are in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import frozen_weights
from phema.shared.edm2.sampling.guidance import Interval, check_guide, guided, guided_steps
from phema.shared.edm2.sampling.heun import Denoise, SamplerError, heun, sigma_steps

Labels = Sequence[int] | Tensor | Literal["random"] | None


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
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    guide: Denoiser | None = None,
    guidance: float = 1.0,
    guidance_interval: Interval | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw one picture per seed: float32 [len(seeds), C, H, W] on the CPU, in the range of the data (-1 to 1).

    Each picture has its own generator, so that it depends on its seed only. The generator draws the noise, then a class
    (used if `class_labels` is "random"), then the noise of `churn`. Other labels: class indices or one-hot rows, one
    per seed, or None for "no label". The network and guide are moved to `device`, unless it is None, and run in
    evaluation mode. `churn` and its bounds are those of `heun`.

    `guidance` other than 1 needs a `guide`, which gets the same labels. With `guidance_interval` (low, high], only the
    steps of `guided_steps` are guided; the guide is not evaluated at the others.

    On a GPU, `batch_size` pictures are drawn at once, and rounding may depend on the batch. On a CPU the number of
    pictures drawn at once depends on the resolution only, because kernels round differently for other batch sizes; a
    picture is then the same, bit for bit, whatever is drawn with it. Raises SamplerError.
    """
    batches = sample_batches(
        denoiser,
        seeds=seeds,
        class_labels=class_labels,
        sigmas=sigma_steps(num_steps, sigma_min, sigma_max, rho),
        churn=churn,
        churn_min=churn_min,
        churn_max=churn_max,
        churn_noise=churn_noise,
        guide=guide,
        guidance=guidance,
        guidance_interval=guidance_interval,
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
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    guide: Denoiser | None = None,
    guidance: float = 1.0,
    guidance_interval: Interval | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Like `sample`, one batch after the other, for callers that report progress or stop early. Takes the `sigmas`."""
    _check(denoiser, guide, guidance, batch_size)
    one_hot = _one_hot(class_labels, len(seeds), denoiser.config.label_dim)
    steps = guided_steps(sigmas, guidance_interval)
    guiding = guide if guidance != 1 and any(steps) else None
    networks = [denoiser] if guiding is None else [denoiser, guiding]
    target = torch.device(device) if device is not None else next(denoiser.parameters()).device
    at_once = pictures_at_once(denoiser, batch_size, target)
    for start in range(0, len(seeds), at_once):
        part = range(start, min(start + at_once, len(seeds)))
        rows = [*part, *[part[-1]] * (at_once - len(part))] if target.type == "cpu" else list(part)
        generators = [torch.Generator().manual_seed(int(seeds[i])) for i in rows]
        noise = _randn(generators, denoiser).to(target)
        # Drawn even if not used, so that the churn noise that follows does not depend on `class_labels`.
        drawn = _random_one_hot(generators, denoiser.config.label_dim)
        labels = drawn if isinstance(class_labels, str) else one_hot[rows] if one_hot is not None else None
        labels = labels.to(target) if labels is not None else None
        with _inference(networks, target):
            main = _given_labels(denoiser, labels)
            both = guided(main, _given_labels(guiding, labels), guidance) if guiding is not None else main
            pictures = heun(
                [both if is_guided else main for is_guided in steps],
                noise,
                sigmas,
                churn=churn,
                churn_min=churn_min,
                churn_max=churn_max,
                churn_noise=churn_noise,
                randn=_churn_noise(generators, denoiser, target),
            )
        yield pictures[: len(part)].to("cpu", torch.float32)


def random_classes(denoiser: Denoiser, seeds: Sequence[int]) -> list[int] | None:
    """The class that each seed draws with `class_labels="random"`; None for an unconditional network."""
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    for generator in generators:
        _randn([generator], denoiser)  # the noise comes first
    one_hot = _random_one_hot(generators, denoiser.config.label_dim)
    return None if one_hot is None else one_hot.argmax(dim=1).tolist()


def pictures_at_once(denoiser: Denoiser, batch_size: int, device: torch.device | None = None) -> int:
    """Pictures that are drawn at once: `batch_size` on a GPU; on a CPU 1 from 64 x 64 on, more of smaller ones.

    Larger batches gain less than 5 % there, and a request for a few pictures would compute a whole batch. `device` None
    is where the network is.
    """
    target = device if device is not None else next(denoiser.parameters()).device
    return batch_size if target.type != "cpu" else max(1, 4096 // denoiser.config.img_resolution**2)


@contextmanager
def _inference(networks: Sequence[Denoiser], device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, each weight normalised once. Restores the modes at the end."""
    modes = [network.training for network in networks]
    for network in networks:
        network.to(device).eval()
    try:
        with torch.no_grad(), frozen_weights(*networks):
            yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


def _given_labels(network: Denoiser, labels: Tensor | None) -> Denoise:
    return lambda x, sigma: network(x, sigma, labels)


def _randn(generators: Sequence[torch.Generator], denoiser: Denoiser) -> Tensor:
    config = denoiser.config
    shape = [config.img_channels, config.img_resolution, config.img_resolution]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _churn_noise(
    generators: Sequence[torch.Generator], denoiser: Denoiser, device: torch.device
) -> Callable[[], Tensor]:
    return lambda: _randn(generators, denoiser).to(device)


def _random_one_hot(generators: Sequence[torch.Generator], label_dim: int) -> Tensor | None:
    if not label_dim:
        return None
    classes = [torch.randint(label_dim, [], generator=generator) for generator in generators]
    return torch.nn.functional.one_hot(torch.stack(classes), label_dim).float()


def _one_hot(labels: Labels, count: int, label_dim: int) -> Tensor | None:
    """[count, label_dim] float rows, or None without labels or for an unconditional network."""
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
    check_guide(denoiser.config, guide.config)
