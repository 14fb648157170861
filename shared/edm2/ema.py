"""Power-function averages of a module's parameters, kept while it trains (Karras et al. 2024, Section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared.edm2.powerfunction import beta, gamma_from_sigma_rel


class EmaError(ValueError):
    """There is nothing to track, or a saved state does not belong to these averages."""


class PowerFunctionEMA:
    """One average per width in `sigma_rels` of every parameter of `module`, in float32 (float64 for float64 ones).

    The first update replaces whatever the averages hold, so initial weights never enter. Buffers are not averaged.
    """

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float]) -> None:
        if not sigma_rels:
            raise EmaError("sigma_rels is empty; name at least one width to track")
        self.sigma_rels = tuple(sigma_rels)
        self._gammas = [gamma_from_sigma_rel(s) for s in self.sigma_rels]
        self._module = module
        self._names = [name for name, _ in module.named_parameters()]
        self._averages = [
            [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in module.parameters()]
            for _ in self.sigma_rels
        ]

    @torch.no_grad()
    def update(self, num_images: int, delta_images: int) -> None:
        """Take the module's weights in after a step of `delta_images` that ended at `num_images` seen (Eq. 127)."""
        weights = [
            p.detach().to(average.dtype)
            for p, average in zip(self._module.parameters(), self._averages[0], strict=True)
        ]
        for gamma, averages in zip(self._gammas, self._averages, strict=True):
            torch._foreach_lerp_(averages, weights, 1 - beta(gamma, num_images, delta_images))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Full state of average `index`, keyed and ordered like the module's state_dict; buffers are the module's.

        No copies: the averages change with the next update.
        """
        averages = dict(zip(self._names, self._averages[index], strict=True))
        return {name: averages.get(name, value) for name, value in self._module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs for an exact resume; tensors are not copied."""
        return {
            "sigma_rels": list(self.sigma_rels),
            "averages": [dict(zip(self._names, averages, strict=True)) for averages in self._averages],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError when widths, names or shapes differ."""
        if tuple(state["sigma_rels"]) != self.sigma_rels:
            raise EmaError(f"saved averages have sigma_rel {list(state['sigma_rels'])}, not {list(self.sigma_rels)}")
        for averages, saved in zip(self._averages, state["averages"], strict=True):
            _copy_all(averages, self._names, saved)


def _copy_all(averages: list[Tensor], names: list[str], saved: Mapping[str, Tensor]) -> None:
    different = set(names) ^ set(saved)
    if different:
        raise EmaError(f"saved averages and the network differ in {sorted(different)[0]!r}")
    for name, average in zip(names, averages, strict=True):
        if saved[name].shape != average.shape:
            raise EmaError(f"{name} has shape {tuple(saved[name].shape)}; the network's is {tuple(average.shape)}")
        average.copy_(saved[name])
