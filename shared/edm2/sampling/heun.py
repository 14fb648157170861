"""Heun's sampler along a schedule of noise levels (Karras et al. 2022, Algorithms 1 and 2).

Pure functions of a denoiser: any callable (x [N, C, H, W], sigma scalar) -> D(x; sigma).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


class SamplerError(ValueError):
    """The arguments of a sampler are not valid."""


def sigma_steps(num_steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """[num_steps + 1] float64 noise levels from sigma_max to sigma_min, evenly spaced in sigma^(1 / rho), then 0.

    Raises SamplerError.
    """
    if num_steps < 2:
        raise SamplerError(f"num_steps {num_steps} must be at least 2")
    if not 0 < sigma_min < sigma_max:
        raise SamplerError(f"sigma_min {sigma_min:g} must be above 0 and below sigma_max {sigma_max:g}")
    if rho <= 0:
        raise SamplerError(f"rho {rho:g} must be above 0")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(start + ramp * (end - start)) ** rho, torch.zeros(1, dtype=torch.float64)])


def heun(
    denoise: Denoise | Sequence[Denoise],
    noise: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    randn: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Pictures [N, C, H, W] from standard normal `noise` along `sigmas` (descending, the last 0), second order.

    All steps but the last have a correction, so n steps take 2 n - 1 evaluations. `denoise` may be a sequence of n:
    then denoise[i] makes both evaluations of step i, including the correction at the next noise level.

    With `churn` > 0, each step that starts at a level from `churn_min` to `churn_max` first adds noise from `randn`,
    which returns the shape of `noise`. The level rises by the factor 1 + min(churn / n, sqrt(2) - 1), and the added
    noise is scaled by `churn_noise`. Raises SamplerError.
    """
    _check_churn(churn, churn_min, churn_max, churn_noise)
    if churn > 0 and randn is None:
        raise SamplerError(f"churn {churn:g} adds noise and needs randn; only churn 0 does without")
    levels = [float(sigma) for sigma in sigmas]
    steps = list(itertools.pairwise(levels))
    denoisers = [denoise] * len(steps) if callable(denoise) else denoise
    x = noise * levels[0]
    rise = min(churn / len(steps), math.sqrt(2) - 1)
    for (level, sigma_next), step in zip(steps, denoisers, strict=True):
        sigma = level
        if randn is not None and rise > 0 and churn_min <= level <= churn_max:
            sigma = level * (1 + rise)
            x = x + math.sqrt(sigma**2 - level**2) * churn_noise * randn()
        slope = (x - step(x, x.new_full([], sigma))) / sigma
        euler = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            corrected = (euler - step(euler, x.new_full([], sigma_next))) / sigma_next
            euler = x + (sigma_next - sigma) * (slope + corrected) / 2
        x = euler
    return x


def _check_churn(churn: float, churn_min: float, churn_max: float, churn_noise: float) -> None:
    if churn < 0:
        raise SamplerError(f"churn {churn:g} must be at least 0")
    if not 0 <= churn_min < churn_max:
        raise SamplerError(f"churn_min {churn_min:g} must be at least 0 and below churn_max {churn_max:g}")
    if churn_noise <= 0:
        raise SamplerError(f"churn_noise {churn_noise:g} must be above 0")
