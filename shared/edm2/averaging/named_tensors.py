"""Parameters and buffers of a module under the names of the plain module, also if it is wrapped or sharded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
        "_checkpoint_wrapped_module",
    ),
)
"""Module and name of each wrapper class, and the attribute that holds the wrapped module."""


@dataclass(frozen=True)
class Sharding:
    """How a tensor is sharded: what is needed to make a distributed tensor of local shards."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    def wrap(self, local: Tensor) -> Tensor:
        """A distributed tensor with `local` as this process's part. No communication."""
        wrapped: Tensor = _dtensor().from_local(
            local, self.mesh, self.placements, run_check=False, shape=self.shape, stride=self.stride
        )
        return wrapped

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a whole tensor. No communication."""
        from torch.distributed.tensor import distribute_tensor

        return local(distribute_tensor(whole, self.mesh, self.placements, src_data_rank=None))


def sharding_of(tensor: Tensor) -> Sharding | None:
    """Sharding of a distributed tensor; None for an ordinary tensor."""
    if not is_sharded(tensor):
        return None
    spread: Any = tensor
    return Sharding(spread.device_mesh, tuple(spread.placements), tensor.shape, tensor.stride())


def is_sharded(tensor: Tensor) -> bool:
    # There are distributed tensors only if their module is loaded. Importing it takes seconds, so do not do it here.
    return "torch.distributed.tensor" in sys.modules and isinstance(tensor, _dtensor())


def local(tensor: Any) -> Tensor:
    """This process's part of a distributed tensor, or all of an ordinary one. No communication, no copy."""
    detached: Any = tensor.detach()
    part: Tensor = detached.to_local() if is_sharded(detached) else detached
    return part


def whole(tensor: Any) -> Tensor:
    """The whole tensor. Collective for a distributed tensor: every process of its mesh must call it."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def named_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that can be averaged (no integers), once, by its first own name."""
    named = module.named_parameters()
    return {name: parameter for name, parameter in named if parameter.is_floating_point() or parameter.is_complex()}


def named_state(module: nn.Module) -> Iterator[tuple[str, Tensor, str | None]]:
    """Each tensor of the module's state_dict, in its order: plain name, tensor, and plain name of its weight.

    The last is None for a tensor that is not averaged. Tied parameters have several names and one weight.
    """
    first = {id(parameter): plain_name(module, name) for name, parameter in named_weights(module).items()}
    weights = {
        plain_name(module, name): first.get(id(parameter))
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
    for name, value in module.state_dict().items():
        # Other values (`get_extra_state`) cannot be stored in a file of tensors.
        if isinstance(value, Tensor):
            plain = plain_name(module, name)
            yield plain, value, weights.get(plain)


def plain_name(module: nn.Module, name: str) -> str:
    """`name` without the parts that wrappers add: `module` (DistributedDataParallel), `_orig_mod` (torch.compile) and
    `_checkpoint_wrapped_module` (activation checkpointing)."""
    current: nn.Module | None = module
    kept = []
    for part in name.split("."):
        inner = _inner(current)
        if inner == part:
            current = _child(current, part)
            continue
        while inner is not None:  # a name that leaves the wrapper out
            current = _child(current, inner)
            inner = _inner(current)
        kept.append(part)
        current = _child(current, part)
    return ".".join(kept)


def _inner(module: nn.Module | None) -> str | None:
    """The attribute in which a wrapper holds the wrapped module; None if `module` is no wrapper."""
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return "module"
    return next((attribute for home, name, attribute in _WRAPPERS if _is_a(module, home, name)), None)


def _is_a(module: nn.Module | None, home: str, name: str) -> bool:
    """Whether it is an instance of the class `name` of the module `home`, without importing `home`."""
    return home in sys.modules and isinstance(module, getattr(sys.modules[home], name))


def _child(module: nn.Module | None, name: str) -> nn.Module | None:
    return None if module is None else module._modules.get(name)


def _dtensor() -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor
