"""Copies an average into a module, or swaps it in for the length of a block."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from phema.shared.edm2.averaging.averaged_weights import AveragedWeights, EmaError
from phema.shared.edm2.averaging.named_tensors import (
    is_sharded,
    local,
    named_state,
    named_weights,
    plain_name,
    sharding_of,
    whole,
)


@torch.no_grad()
def copy_to_module(average: AveragedWeights, module: nn.Module) -> None:
    """Copy the average, and the buffers of its own module, into `module`, which keeps its dtypes and devices.

    `module` may be plain, wrapped, or sharded in any way. Collective if either module is sharded. Raises EmaError, and
    changes nothing, if names or shapes of the two state_dicts differ.
    """
    _reshard(module)
    _reshard(average.module)
    source = {name: (value, weight) for name, value, weight in named_state(average.module)}
    target = {name: value for name, value, _ in named_state(module)}
    if different := sorted(set(source) ^ set(target)):
        owner = "module" if different[0] in target else "average"
        raise EmaError(f"{different[0]!r} is in the {owner}'s state_dict only; give a module of the same architecture")
    for name, (value, _) in source.items():
        if value.shape != target[name].shape:
            shapes = f"{tuple(target[name].shape)}; in the averages it has {tuple(value.shape)}"
            raise EmaError(f"{name!r} has shape {shapes}")
    averages = average.named()
    copied: dict[str, Tensor] = {
        plain_name(module, name): parameter for name, parameter in named_weights(module).items()
    }
    copied |= {name: target[name] for name, (_, weight) in source.items() if weight is None}
    for name, into in copied.items():
        value, weight = source[name]
        _copy(into, value if weight is None else averages[weight])


@contextmanager
def swapped_in(average: AveragedWeights) -> Iterator[nn.Module]:
    """Put the average into its own module for the length of the block; then put everything back, bit for bit.

    Weights are changed in place, so that optimizers, compiled code and wrappers keep seeing the same parameters.
    Buffers may change within the block and are put back too. No communication.
    """
    module = average.module
    _reshard(module)
    parts = average.parts()
    # Averages on another device leave no room for a second copy there.
    kept = [p.to(device=average.device, copy=True) for p in parts]
    buffers = [(m, name, b, b.clone()) for m in module.modules() for name, b in m._buffers.items() if b is not None]
    try:
        _copy_all(parts, average.values)
        yield module
    finally:
        _reshard(module)
        with torch.no_grad():
            _copy_all([local(p) for p in named_weights(module).values()], kept)
            for owner, name, buffer, before in buffers:
                owner._buffers[name] = buffer
                buffer.copy_(before)


@torch.no_grad()
def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _copy(into: Tensor, value: Tensor) -> None:
    sharding = sharding_of(into)
    if sharding is None:
        into.copy_(whole(value))
    elif is_sharded(value) and sharding_of(value) == sharding:
        local(into).copy_(local(value))
    else:
        local(into).copy_(sharding.part(whole(value).to(local(into).device)))


def _reshard(module: nn.Module) -> None:
    """FSDP2 modules may hold whole parameters after an evaluation. They are copies: changes to them would be lost."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return
    for part in module.modules():
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()
