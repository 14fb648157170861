"""What a metric computes its figures from, and the calls into the metrics' modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from phema.shared.datasets import Dataset
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.metrics.moments import Moments
from phema.shared.metrics.registry import METRICS


@dataclass(frozen=True)
class ScoringInputs:
    """One network, its dataset and its recipe. Callables raise what the worker raises to stop."""

    denoiser: Denoiser
    dataset: Dataset
    p_mean: float
    p_std: float
    """Mean and standard deviation of ln σ in training."""
    batch_size: int
    """Pictures that fit the device at once."""
    num_samples: int
    """Pictures that `samples` draws."""
    evaluations_per_sample: int
    """Evaluations of network and guide for one drawn picture."""
    samples: Callable[[], Iterator[Tensor]]
    """Draws pictures in batches, float32 [n, C, H, W] on the CPU, with classes drawn uniformly. Counts its own work."""
    reference: Callable[[], Moments]
    """Moments of all training pictures in the features of `frechet`."""
    advance: Callable[[int], None]
    """Takes the number of evaluations done, in pictures. Call it for all work but that of `samples`."""
    announce: Callable[[str], None]
    """Takes a message that says what is being done."""

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device


class _MetricModule(Protocol):
    def work(self, inputs: ScoringInputs) -> int: ...

    def compute(self, inputs: ScoringInputs) -> dict[str, float]: ...


def work(name: str, inputs: ScoringInputs) -> int:
    """Evaluations of network and guide that the metric takes, counted in pictures."""
    return _module(name).work(inputs)


def compute(name: str, inputs: ScoringInputs) -> dict[str, float]:
    """The figures of the metric. Raises DatasetError, FrechetError and what the callables of `inputs` raise."""
    return _module(name).compute(inputs)


def _module(name: str) -> _MetricModule:
    return cast(_MetricModule, import_module(METRICS[name].module))
