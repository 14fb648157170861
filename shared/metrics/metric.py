"""What a metric is: its figures, what it needs, and the function that computes it. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phema.shared.datasets import Dataset
    from phema.shared.metrics.figures import FigureValue
    from phema.shared.metrics.reference import Reference

Need = Literal["samples", "reference", "held_out"]
"""`samples`: generated pictures. `reference`: statistics of the training pictures. `held_out`: pictures kept from
training; a run with `dataset.held_out` 0 has none and cannot have the metric."""

FROM_PICTURES: frozenset[Need] = frozenset({"samples", "reference"})
"""Needs of a metric that compares features of generated pictures with those of the training pictures."""


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation."""

    name: str
    better: Literal["lower", "higher"]
    unit: str
    """Empty for a number without unit."""
    description: str


@dataclass(frozen=True)
class ScoredRun:
    """What decides which metrics a run can have. From a run's configuration, or from an open dataset."""

    dataset: str
    """Name of the dataset; `digits` is the built-in one."""
    channels: int
    """Of the network's pictures. Latents have 4."""
    resolution: int
    held_out: int = 0
    """Number of pictures that were kept from training."""
    vae: str | None = None
    """VAE that decodes latents."""

    @classmethod
    def of_dataset(cls, dataset: Dataset, vae: str | None = None) -> ScoredRun:
        """For pictures without a run."""
        return cls(dataset.name, dataset.channels, dataset.resolution, len(dataset.held_out), vae)


@dataclass(frozen=True)
class Metric:
    """One way to score a network. Exactly one of `compute` and `from_network` is set."""

    name: str
    """As requests name it in `metrics`."""
    figures: tuple[Figure, ...]
    rank: int
    """Metrics are listed, and evaluations are ranked, in ascending order of rank; equal ranks by name."""
    needs: frozenset[Need]
    extractor: str | None = None
    """Name of the feature extractor; None for a metric that is computed from the network."""
    minimum: int = 1
    """Smallest number of pictures on either side."""
    full_rank: bool = False
    """Whether both sides need more pictures than the extractor has features, so that covariances have full rank."""
    groups: int = 1
    """Into how many groups the generated pictures are divided; each needs `minimum` and `full_rank` by itself."""
    needs_features: bool = False
    """Whether the reference must hold features of single pictures, not only moments."""
    default_for: Callable[[ScoredRun], bool] = lambda run: False
    """Whether a request that names no metrics gets this one."""
    compute: Callable[[NDArray[np.float32], Reference], Mapping[str, FigureValue]] | None = None
    """From features float32 [n, num_features] in seed order and the reference: the value of every figure."""
    from_network: str | None = None
    """Module with the function `measure_network(inputs: NetworkInputs)`, which returns the value of every figure. A
    name and no import: it needs torch."""
    network_work: Callable[[int], int] = lambda held_out: 0
    """Network evaluations of `from_network`, counted in pictures, for a number of held-out pictures."""
