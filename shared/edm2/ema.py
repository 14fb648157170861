"""Power-function (Karras et al. 2024, Section 3.1) and traditional exponential (EDM, 2022) averages of a module's
parameters, kept while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared.edm2.powerfunction import beta, gamma_from_sigma_rel


class EmaError(ValueError):
    """An average cannot be what was asked, or a saved state does not belong to it."""


class PowerFunctionEMA:
    """One average per width in `sigma_rels` of every parameter of `module`, in float32 (float64 for float64 ones).

    The first update replaces whatever the averages hold, so initial weights never enter. Buffers are not averaged.
    """

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float]) -> None:
        if not sigma_rels:
            raise EmaError("sigma_rels is empty; name at least one width to track")
        self.sigma_rels = tuple(sigma_rels)
        self._gammas = [gamma_from_sigma_rel(s) for s in self.sigma_rels]
        self._averages = [_Average(module) for _ in self.sigma_rels]

    @torch.no_grad()
    def update(self, num_images: int, delta_images: int) -> None:
        """Take the module's weights in after a step of `delta_images` that ended at `num_images` seen (Eq. 127)."""
        weights = self._averages[0].weights()
        for gamma, average in zip(self._gammas, self._averages, strict=True):
            average.take(weights, 1 - beta(gamma, num_images, delta_images))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Full state of average `index`, keyed and ordered like the module's state_dict; buffers are the module's.

        No copies: the averages change with the next update.
        """
        return self._averages[index].tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs for an exact resume; tensors are not copied."""
        return {"sigma_rels": list(self.sigma_rels), "averages": [average.named() for average in self._averages]}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError when widths, names or shapes differ."""
        if tuple(state["sigma_rels"]) != self.sigma_rels:
            raise EmaError(f"saved averages have sigma_rel {list(state['sigma_rels'])}, not {list(self.sigma_rels)}")
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy(saved)


class TraditionalEMA:
    """The exponential average that configuration A is known by, its half-life in images; float32 as above.

    An update decays the average by 0.5^(delta_images / half-life). With a `rampup_ratio` the half-life is at most that
    share of the images seen, those of the update included, so that 2^(-1 / rampup_ratio) of the initial weights is left
    after the first update: 1e-6 at EDM's 0.05. Without one the initial weights fade with the half-life.
    """

    def __init__(self, module: nn.Module, half_life_images: float, rampup_ratio: float | None = None) -> None:
        if not half_life_images > 0:
            raise EmaError(f"half_life_images {half_life_images!r} must be above 0")
        if rampup_ratio is not None and not rampup_ratio > 0:
            raise EmaError(f"rampup_ratio {rampup_ratio!r} must be above 0, or None for no ramp-up")
        self.half_life_images = half_life_images
        self.rampup_ratio = rampup_ratio
        self._average = _Average(module)

    def decay(self, num_images: int, delta_images: int) -> float:
        """Share of the average that remains after an update of `delta_images` that ended at `num_images` seen."""
        if not 0 < delta_images <= num_images:
            raise EmaError(f"delta_images {delta_images!r} must be above 0 and at most num_images {num_images!r}")
        half_life = self.half_life_images
        if self.rampup_ratio is not None:
            half_life = min(half_life, self.rampup_ratio * num_images)
        return float(0.5 ** (delta_images / half_life))

    @torch.no_grad()
    def update(self, num_images: int, delta_images: int) -> None:
        """Take the module's weights in after a step of `delta_images` that ended at `num_images` seen."""
        self._average.take(self._average.weights(), 1 - self.decay(num_images, delta_images))

    def tensors(self) -> dict[str, Tensor]:
        """Full state, keyed and ordered like the module's state_dict; buffers are the module's. No copies."""
        return self._average.tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs for an exact resume; tensors are not copied."""
        return {
            "half_life_images": self.half_life_images,
            "rampup_ratio": self.rampup_ratio,
            "average": self._average.named(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError when half-life, ramp-up, names or shapes differ."""
        for field in ("half_life_images", "rampup_ratio"):
            if state[field] != getattr(self, field):
                raise EmaError(f"the saved average has {field} {state[field]}, not {getattr(self, field)}")
        self._average.copy(state["average"])


class _Average:
    """One average of every parameter of a module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names = [name for name, _ in module.named_parameters()]
        self._values = [
            p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in module.parameters()
        ]

    def weights(self) -> list[Tensor]:
        """The module's weights in the averages' precision."""
        return [p.detach().to(v.dtype) for p, v in zip(self._module.parameters(), self._values, strict=True)]

    def take(self, weights: list[Tensor], share: float) -> None:
        torch._foreach_lerp_(self._values, weights, share)

    def named(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._values, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        named = self.named()
        return {name: named.get(name, value) for name, value in self._module.state_dict().items()}

    def copy(self, saved: Mapping[str, Tensor]) -> None:
        different = set(self._names) ^ set(saved)
        if different:
            raise EmaError(f"saved averages and the network differ in {sorted(different)[0]!r}")
        for name, value in self.named().items():
            if saved[name].shape != value.shape:
                raise EmaError(f"{name} has shape {tuple(saved[name].shape)}; the network's is {tuple(value.shape)}")
            value.copy_(saved[name])
