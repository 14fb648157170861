"""Averages of a module's parameters, updated while it trains: power-function (Karras et al. 2024, Section 3.1) and
traditional exponential (EDM, 2022).

They work for any module. Tied parameters are averaged once and returned under each of their names. Buffers and integer
parameters are copied, not averaged. Names are those of the plain module, also under DistributedDataParallel,
torch.compile and activation checkpointing. Of a module sharded by FSDP2 (`fully_shard`), each process averages its own
shards.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from phema.shared.edm2.averaging.power_function import beta, gamma_from_sigma_rel


class EmaError(ValueError):
    """An argument is not valid, or the module or a saved state does not match the averages."""


class PowerFunctionEMA:
    """One average per width in `sigma_rels` of every parameter of `module`, in float32 (float64 for float64 ones).

    The first update replaces the content of the power-function averages, so initial weights never enter them. Buffers
    are not averaged: BatchNorm's running statistics are those of the training weights, so measure them again for
    averaged weights.

    `half_life_images` adds traditional exponential averages, one per half-life; `rampup_ratio` limits their half-lives
    to this share of the images seen. See `TraditionalEMA`.

    Create it when the module is on its device and sharded (`fully_shard`), before the first step. Averages follow a
    module that moves to another device. Raises EmaError, and PowerFunctionError for a width outside 0 to 12^-0.5.
    """

    def __init__(
        self,
        module: nn.Module,
        sigma_rels: Sequence[float] = (0.05, 0.10),
        *,
        half_life_images: int | Sequence[int] = (),
        rampup_ratio: float | None = None,
    ) -> None:
        given = half_life_images if isinstance(half_life_images, Iterable) else (half_life_images,)
        half_lives = tuple(_whole_number("half_life_images", half_life) for half_life in given)
        self.sigma_rels = tuple(sigma_rels)
        if not self.sigma_rels and not half_lives:
            raise EmaError("sigma_rels is empty; name at least one width to track")
        for field, values in (("sigma_rels", self.sigma_rels), ("half_life_images", half_lives)):
            if len(set(values)) != len(values):
                raise EmaError(f"{field} {list(values)} names an average twice; each may be tracked once")
        if rampup_ratio is not None and not half_lives:
            raise EmaError(f"rampup_ratio {rampup_ratio!r} has no meaning without half_life_images; give both")
        self._gammas = [gamma_from_sigma_rel(s) for s in self.sigma_rels]
        self._averages = [_Average(module) for _ in self.sigma_rels]
        self.traditional = tuple(TraditionalEMA(module, half_life, rampup_ratio) for half_life in half_lives)
        self.num_images = 0
        """Images seen at the last update; 0 before the first."""

    def __len__(self) -> int:
        """Number of averages: first the power functions, in order of `sigma_rels`, then the traditional ones."""
        return len(self._averages) + len(self.traditional)

    @torch.no_grad()
    def update(self, num_images: int, delta_images: int | None = None) -> None:
        """Update all averages with the module's weights after `num_images` images (Eq. 127).

        Call it after every step, or every k-th. The decay depends on the images since the last update, whose number may
        vary; `delta_images` replaces that number. Raises EmaError if `num_images` is not a whole number above the last
        one, or if the module's parameters are not those at creation.
        """
        now = _whole_number("num_images", num_images)
        if now <= self.num_images:
            raise EmaError(
                f"num_images {now} must be above {self.num_images}, the time of the last update: it counts all the "
                "images seen since training began"
            )
        elapsed = now - self.num_images if delta_images is None else delta_images
        shares = [1 - beta(gamma, now, elapsed) for gamma in self._gammas]
        everything = [*self._averages, *(t.average for t in self.traditional)]
        shares += [1 - t.decay(now, elapsed) for t in self.traditional]
        weights = everything[0].weights()
        for average, share in zip(everything, shares, strict=True):
            average.update(weights, share)
        self.num_images = now

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Full state of average `index`, with the keys and order of the module's state_dict; buffers are the module's.

        Tensors are not copied: they change with the next update. Of a sharded module, tensors are gathered
        collectively: every process must call it.
        """
        return dict(self.items(index))

    def items(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """`tensors` one by one, so that at most one tensor of a sharded module is gathered at a time."""
        return self._at(index).items()

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names in `tensors` that are copied from the module, not averaged."""
        return self._at(0).buffers()

    @property
    def sharded(self) -> bool:
        """Whether the module is sharded, so that `tensors` and `items` are collective."""
        return self._at(0).sharded

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume exactly. Tensors are not copied.

        Of a sharded module they are distributed tensors, like in its own state_dict: save both with
        `torch.distributed.checkpoint`.
        """
        state: dict[str, Any] = {
            "sigma_rels": list(self.sigma_rels),
            "averages": [average.named() for average in self._averages],
            "num_images": self.num_images,
        }
        if self.traditional:
            state["traditional"] = [t.state_dict() for t in self.traditional]
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError if widths, half-lives, names or shapes differ.

        Of a sharded module, tensors may be distributed in the same way, or whole.
        """
        if tuple(state["sigma_rels"]) != self.sigma_rels:
            raise EmaError(f"saved averages have sigma_rel {list(state['sigma_rels'])}, not {list(self.sigma_rels)}")
        traditional = state.get("traditional", [])
        if len(traditional) != len(self.traditional):
            raise EmaError(f"{len(traditional)} traditional averages are saved, {len(self.traditional)} are tracked")
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy(saved)
        for kept, saved in zip(self.traditional, traditional, strict=True):
            kept.load_state_dict(saved)
        # Older checkpoints lack it; their trainers pass `delta_images` to each update.
        self.num_images = state.get("num_images", 0)

    def _at(self, index: int) -> _Average:
        return [*self._averages, *(t.average for t in self.traditional)][index]


class TraditionalEMA:
    """The exponential average of configuration A, with a half-life in images; float32 (float64 for float64 weights).

    An update multiplies the average by 0.5^(delta_images / half-life). With a `rampup_ratio`, the half-life is at most
    that share of the images seen, including those of the update. The first update then leaves 2^(-1 / rampup_ratio) of
    the initial weights: 1e-6 at EDM's 0.05. Without it, the initial weights fade with the half-life.
    """

    def __init__(self, module: nn.Module, half_life_images: float, rampup_ratio: float | None = None) -> None:
        if not half_life_images > 0:
            raise EmaError(f"half_life_images {half_life_images!r} must be above 0")
        if rampup_ratio is not None and not 0 < rampup_ratio < math.log(2):
            raise EmaError(
                f"rampup_ratio {rampup_ratio!r} must be above 0 and below ln 2 = 0.6931, or None for no ramp-up"
            )
        self.half_life_images = half_life_images
        self.rampup_ratio = rampup_ratio
        self.average = _Average(module)

    def decay(self, num_images: int, delta_images: int) -> float:
        """Share of the average that an update of `delta_images`, ending at `num_images` images seen, leaves."""
        if not 0 < delta_images <= num_images:
            raise EmaError(f"delta_images {delta_images!r} must be above 0 and at most num_images {num_images!r}")
        half_life = self.half_life_images
        if self.rampup_ratio is not None:
            half_life = min(half_life, self.rampup_ratio * num_images)
        return float(0.5 ** (delta_images / half_life))

    @torch.no_grad()
    def update(self, num_images: int, delta_images: int) -> None:
        """Update with the module's weights after a step of `delta_images` that ended at `num_images` images seen."""
        self.average.update(self.average.weights(), 1 - self.decay(num_images, delta_images))

    def tensors(self) -> dict[str, Tensor]:
        """Full state, with the keys and order of the module's state_dict; buffers are the module's. No copies."""
        return dict(self.average.items())

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume exactly. Tensors are not copied."""
        return {
            "half_life_images": self.half_life_images,
            "rampup_ratio": self.rampup_ratio,
            "average": self.average.named(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError if half-life, ramp-up, names or shapes differ."""
        for field in ("half_life_images", "rampup_ratio"):
            if state[field] != getattr(self, field):
                raise EmaError(f"the saved average has {field} {state[field]}, not {getattr(self, field)}")
        self.average.copy(state["average"])


class _Average:
    """One average of every parameter of a module, or of this process's shards if it is sharded."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        weights = named_weights(module)
        self._own_names = list(weights)
        self._names = [plain_name(module, name) for name in weights]
        self._shardings: list[Sharding | None] = [sharding_of(p) for p in weights.values()]
        self._values = [local(p).to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in weights.values()]
        missing = set(self._names) - {weight for _, _, weight in named_state(module)}
        if missing:
            raise EmaError(
                f"parameter {sorted(missing)[0]} has another name in the module's state_dict, or none, so that its "
                "average could not be stored; give the module without what renames its state_dict"
            )

    @property
    def sharded(self) -> bool:
        return any(self._shardings)

    def weights(self) -> list[Tensor]:
        """The module's weights in the precision of the averages. Raises EmaError if the parameters have changed."""
        found = named_weights(self._module)
        if list(found) != self._own_names:
            different = sorted(set(self._own_names) ^ set(found))
            raise EmaError(f"the module's parameters are not those that averages were made of: {different or 'order'}")
        return [
            self._local(name, p, sharding, value).to(value.dtype)
            for (name, p), sharding, value in zip(found.items(), self._shardings, self._values, strict=True)
        ]

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
        for i, (value, weight) in enumerate(zip(self._values, weights, strict=True)):
            if value.device != weight.device:
                self._values[i] = value.to(weight.device)
        if share == 1:  # replaces values that are not finite, too
            torch._foreach_copy_(self._values, weights)
        else:
            torch._foreach_lerp_(self._values, weights, share)

    def named(self) -> dict[str, Tensor]:
        wrapped = (
            value if sharding is None else sharding.wrap(value)
            for value, sharding in zip(self._values, self._shardings, strict=True)
        )
        return dict(zip(self._names, wrapped, strict=True))

    def items(self) -> Iterator[tuple[str, Tensor]]:
        named = self.named()
        for name, value, weight in named_state(self._module):
            yield name, whole(value if weight is None else named[weight])

    def buffers(self) -> tuple[str, ...]:
        return tuple(name for name, _, weight in named_state(self._module) if weight is None)

    def copy(self, saved: Mapping[str, Tensor]) -> None:
        different = set(self._names) ^ set(saved)
        if different:
            raise EmaError(f"saved averages and the network differ in {sorted(different)[0]!r}")
        for name, value, sharding in zip(self._names, self._values, self._shardings, strict=True):
            found, shape = saved[name], value.shape if sharding is None else sharding.shape
            if found.shape != shape:
                raise EmaError(f"{name} has shape {tuple(found.shape)}; the network's is {tuple(shape)}")
            if sharding is not None and not is_sharded(found):
                found = sharding.part(found)
            value.copy_(local(found))


def _whole_number(field: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise EmaError(f"{field} {value!r} must be a whole number of images") from error
