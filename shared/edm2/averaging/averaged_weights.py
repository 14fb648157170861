"""One average of all weights of a module, under the names of the plain module, whole or sharded like the module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from phema.shared.edm2.averaging.named_tensors import (
    Sharding,
    is_sharded,
    local,
    named_state,
    named_weights,
    plain_name,
    sharding_of,
    whole,
)


class EmaError(ValueError):
    """An argument is not valid, or the module or a saved state does not match the averages."""


class AveragedWeights:
    """One average of every parameter of a module, or of this process's shards if it is sharded.

    In float32 (float64 for float64 parameters), on `device`; None is the device of each parameter, also if it changes.
    """

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        self.module = module
        self.device = device
        weights = named_weights(module)
        self._own_names = list(weights)
        self._names = [plain_name(module, name) for name in weights]
        self.shardings: list[Sharding | None] = [sharding_of(p) for p in weights.values()]
        self.values = [
            local(p).to(device=device, dtype=torch.promote_types(p.dtype, torch.float32), copy=True)
            for p in weights.values()
        ]
        missing = set(self._names) - {weight for _, _, weight in named_state(module)}
        if missing:
            raise EmaError(
                f"parameter {sorted(missing)[0]} has another name in the module's state_dict, or none, so that its "
                "average could not be stored; give the module without what renames its state_dict"
            )

    @property
    def sharded(self) -> bool:
        return any(self.shardings)

    def parts(self) -> list[Tensor]:
        """This process's parts of the module's parameters, not copied. Raises EmaError if the parameters changed."""
        found = named_weights(self.module)
        if list(found) != self._own_names:
            different = sorted(set(self._own_names) ^ set(found))
            raise EmaError(f"the module's parameters are not those that averages were made of: {different or 'order'}")
        return [
            self._local(name, p, sharding, value)
            for (name, p), sharding, value in zip(found.items(), self.shardings, self.values, strict=True)
        ]

    def converted(self, parts: list[Tensor]) -> list[Tensor]:
        """`parts` in the precision of the averages."""
        return [part.to(value.dtype) for part, value in zip(parts, self.values, strict=True)]

    def _local(self, name: str, parameter: Tensor, sharding: Sharding | None, value: Tensor) -> Tensor:
        if is_sharded(parameter) and sharding is None:
            raise EmaError(f"parameter {name} was sharded after its average was made; make averages after fully_shard")
        if sharding is not None and not is_sharded(parameter):
            raise EmaError(
                f"parameter {name} is not sharded now, as after an evaluation outside training; call reshard() on the "
                "FSDP module before update"
            )
        part = local(parameter)
        if part.shape != value.shape:
            raise EmaError(f"parameter {name} has shape {tuple(part.shape)}, its average has {tuple(value.shape)}")
        return part

    def update(self, weights: list[Tensor], share: float) -> None:
        """Move by `share` of the way to `weights`, which are parts in the precision of the averages."""
        for i, (value, weight) in enumerate(zip(self.values, weights, strict=True)):
            if value.device != weight.device:
                self.values[i] = value.to(weight.device)
        if share == 1:  # replaces values that are not finite, too
            torch._foreach_copy_(self.values, weights)
        else:
            torch._foreach_lerp_(self.values, weights, share)

    def named(self) -> dict[str, Tensor]:
        """The averages by plain name; of a sharded module, distributed tensors. No communication."""
        return {name: self._wrapped(i) for i, name in enumerate(self._names)}

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The whole state with the keys and order of the module's state_dict; buffers are the module's."""
        index = {name: i for i, name in enumerate(self._names)}
        for name, value, weight in named_state(self.module):
            yield name, whole(value if weight is None else self._wrapped(index[weight]))

    def buffers(self) -> tuple[str, ...]:
        """Names of the state that are not averaged."""
        return tuple(name for name, _, weight in named_state(self.module) if weight is None)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Replace the averages by `saved`, by plain name. Raises EmaError if names or shapes differ."""
        different = set(self._names) ^ set(saved)
        if different:
            raise EmaError(f"saved averages and the network differ in {sorted(different)[0]!r}")
        for name, value, sharding in zip(self._names, self.values, self.shardings, strict=True):
            found, shape = saved[name], value.shape if sharding is None else sharding.shape
            if found.shape != shape:
                raise EmaError(f"{name} has shape {tuple(found.shape)}; the network's is {tuple(shape)}")
            if sharding is not None and not is_sharded(found):
                found = sharding.part(found)
            value.copy_(local(found))

    def _wrapped(self, i: int) -> Tensor:
        sharding = self.shardings[i]
        return self.values[i] if sharding is None else sharding.wrap(self.values[i])
