"""Averages of a module's parameters, updated while it trains: power-function (Karras et al. 2024, Section 3.1) and
traditional exponential (EDM, 2022).

They work for any module. Tied parameters are averaged once and returned under each of their names. Buffers and integer
parameters are copied, not averaged. Names are those of the plain module, also under DistributedDataParallel,
torch.compile and activation checkpointing. Of a module sharded by FSDP2 (`fully_shard`) or made of distributed tensors
(`DTensor`), each process averages its own shards.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phema.shared.edm2.averaging.averaged_weights import AveragedWeights, EmaError
from phema.shared.edm2.averaging.offloaded_updates import OffloadedUpdates
from phema.shared.edm2.averaging.power_function import beta, gamma_from_sigma_rel
from phema.shared.edm2.averaging.weight_swap import copy_to_module, swapped_in

__all__ = ["EmaError", "PowerFunctionEMA", "TraditionalEMA"]


class PowerFunctionEMA:
    """One average per width in `sigma_rels` of every parameter of `module`, in float32 (float64 for float64 ones).

    The first update replaces the content of the power-function averages, so initial weights never enter them. Buffers
    are not averaged: BatchNorm's running statistics are those of the training weights, so measure them again for
    averaged weights.

    `half_life_images` adds traditional exponential averages, one per half-life; `rampup_ratio` limits their half-lives
    to this share of the images seen. See `TraditionalEMA`.

    `device="cpu"` keeps the averages on the CPU. `update` then starts an asynchronous copy of the weights and returns;
    a background thread updates the averages. Whatever reads averages waits for it. None keeps them where the
    parameters are, and they follow a module that moves to another device.

    Create it when the module is on its device and sharded (`fully_shard`), before the first step. Raises EmaError, and
    PowerFunctionError for a width outside 0 to 12^-0.5.
    """

    def __init__(
        self,
        module: nn.Module,
        sigma_rels: Sequence[float] = (0.05, 0.10),
        *,
        half_life_images: int | Sequence[int] = (),
        rampup_ratio: float | None = None,
        device: str | torch.device | None = None,
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
        kept_on = None if device is None else torch.device(device)
        if kept_on is not None and kept_on.type != "cpu":
            raise EmaError(f"device {str(device)!r} must be 'cpu', or None for the device of the parameters")
        self._gammas = [gamma_from_sigma_rel(s) for s in self.sigma_rels]
        self._averages = [AveragedWeights(module, kept_on) for _ in self.sigma_rels]
        self.traditional = tuple(
            TraditionalEMA(module, half_life, rampup_ratio, device=kept_on) for half_life in half_lives
        )
        self._offloaded = None if kept_on is None else OffloadedUpdates()
        self._swapped_in = False
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
        one, if the module's parameters are not those at creation, or within `average_parameters`.
        """
        if self._swapped_in:
            raise EmaError("the module holds averaged weights now; leave the block of average_parameters before update")
        now = _whole_number("num_images", num_images)
        if now <= self.num_images:
            raise EmaError(
                f"num_images {now} must be above {self.num_images}, the time of the last update: it counts all the "
                "images seen since training began"
            )
        elapsed = now - self.num_images if delta_images is None else delta_images
        shares = [1 - beta(gamma, now, elapsed) for gamma in self._gammas]
        shares += [1 - t.decay(now, elapsed) for t in self.traditional]
        everything = [*self._averages, *(t.average for t in self.traditional)]
        parts = everything[0].parts()

        def work(weights: list[Tensor]) -> None:
            converted = everything[0].converted(weights)
            for average, share in zip(everything, shares, strict=True):
                average.update(converted, share)

        if self._offloaded is None:
            work(parts)
        else:
            self._offloaded.submit(parts, work)
        self.num_images = now

    def copy_to(self, module: nn.Module, index: int = 0) -> None:
        """Copy average `index`, and the buffers of the averaged module, into another module of the same architecture.

        `module` keeps its dtypes and devices. It may be plain, wrapped, or sharded in any way; if either module is
        sharded, every process must call it. Raises EmaError, and changes nothing, if names or shapes differ.
        """
        copy_to_module(self._at(index), module)

    @contextmanager
    def average_parameters(self, index: int = 0) -> Iterator[nn.Module]:
        """A block in which the averaged module holds average `index`, for an evaluation.

        Afterwards, also after an exception, weights and buffers are what they were, bit for bit. The block takes the
        memory of one more copy of the weights, on the device of the averages. It gives the module. BatchNorm's
        statistics may be measured again within it. Of a sharded module, every process must enter it. Raises EmaError if
        the module holds an average already.
        """
        if self._swapped_in:
            raise EmaError("the module holds averaged weights already; leave the first block of average_parameters")
        average = self._at(index)
        self._swapped_in = True
        try:
            with swapped_in(average) as module:
                yield module
        finally:
            self._swapped_in = False

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
        self._wait()
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
        self._wait()
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.load(saved)
        for kept, saved in zip(self.traditional, traditional, strict=True):
            kept.load_state_dict(saved)
        # Older checkpoints lack it; their trainers pass `delta_images` to each update.
        self.num_images = state.get("num_images", 0)

    def _wait(self) -> None:
        """Wait until offloaded averages hold the last update."""
        if self._offloaded is not None:
            self._offloaded.wait()

    def _at(self, index: int) -> AveragedWeights:
        self._wait()
        return [*self._averages, *(t.average for t in self.traditional)][index]


class TraditionalEMA:
    """The exponential average of configuration A, with a half-life in images; float32 (float64 for float64 weights).

    An update multiplies the average by 0.5^(delta_images / half-life). With a `rampup_ratio`, the half-life is at most
    that share of the images seen, including those of the update. The first update then leaves 2^(-1 / rampup_ratio) of
    the initial weights: 1e-6 at EDM's 0.05. Without it, the initial weights fade with the half-life.
    """

    def __init__(
        self,
        module: nn.Module,
        half_life_images: float,
        rampup_ratio: float | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        if not half_life_images > 0:
            raise EmaError(f"half_life_images {half_life_images!r} must be above 0")
        if rampup_ratio is not None and not 0 < rampup_ratio < math.log(2):
            raise EmaError(
                f"rampup_ratio {rampup_ratio!r} must be above 0 and below ln 2 = 0.6931, or None for no ramp-up"
            )
        self.half_life_images = half_life_images
        self.rampup_ratio = rampup_ratio
        self.average = AveragedWeights(module, device)

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
        weights = self.average.converted(self.average.parts())
        self.average.update(weights, 1 - self.decay(num_images, delta_images))

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
        self.average.load(state["average"])


def _whole_number(field: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise EmaError(f"{field} {value!r} must be a whole number of images") from error
