"""Guidance by a second network, at all noise levels (Karras et al. 2024, Eq. 152) or in an interval of them
(Kynkäänniemi et al. 2024).

The guide may be unconditional (classifier-free guidance) or a worse version of the main network (autoguidance,
Karras et al. 2024b).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.sampling.guide_compatibility import guide_mismatch
from phema.shared.edm2.sampling.heun import Denoise, SamplerError

Interval = tuple[float, float]


def guided(main: Denoise, guide: Denoise, weight: float) -> Denoise:
    """guide + weight * (main - guide). Weights above 1 move away from the guide; a weight of 1 is exactly `main`."""
    if weight == 1:
        return main

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(guide(x, sigma), main(x, sigma), weight)

    return denoise


def guided_steps(sigmas: Sequence[float] | Tensor, interval: Interval | None = None) -> tuple[bool, ...]:
    """Which of the N steps along `sigmas` (N + 1 levels, descending, the last 0) are guided.

    A step is guided if the middle of its two levels lies in the `interval` (low, high]. This equals guiding for
    low < sigma <= high with both ends moved to the nearest level of the schedule, so that the weight does not change
    within a step. Over the 32 published steps, (0.28, 2.90] means steps 15 to 21, although the level of step 15 is
    2.902. None guides every step. Raises SamplerError for an interval that does not rise.
    """
    levels = [float(sigma) for sigma in sigmas]
    if interval is None:
        return (True,) * (len(levels) - 1)
    low, high = interval
    if not 0 <= low < high:
        raise SamplerError(f"guidance_interval ({low:g}, {high:g}] must rise from at least 0 to its upper end")
    return tuple(low < (sigma + following) / 2 <= high for sigma, following in itertools.pairwise(levels))


def check_guide(main: NetworkConfig, guide: NetworkConfig) -> None:
    """Raises SamplerError if a network with configuration `guide` cannot guide one with configuration `main`."""
    if (wrong := guide_mismatch(main, guide)) is not None:
        raise SamplerError(
            f"the guide has {wrong.field} {wrong.given}; to guide this network it must be {wrong.allowed}"
        )
