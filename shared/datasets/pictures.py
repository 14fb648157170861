"""Pictures in memory, and the two disjoint sets of them that a run uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.datasets.facts import DatasetFacts
from shared.edm2.config import NetworkConfig


@dataclass(frozen=True)
class Pictures:
    """`images` float32 [N, C, H, W] in [-1, 1]; `labels` int64 [N], each below the dataset's number of classes."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Copies of the pictures at `indices` [n]: float32 [n, C, H, W] and int64 [n]."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True)
class Dataset:
    """`train` is what a run learns from; `held_out` shares no picture with it."""

    facts: DatasetFacts
    train: Pictures
    held_out: Pictures

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def resolution(self) -> int:
        return self.facts.resolution

    @property
    def channels(self) -> int:
        return self.facts.channels

    @property
    def num_classes(self) -> int:
        return self.facts.num_classes

    def check(self, network: NetworkConfig) -> None:
        """Raises DatasetError when `network` cannot take these pictures; `check_dataset` knows without reading them."""
        self.facts.check_network(network)
