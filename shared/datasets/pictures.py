"""Pictures in memory, and the two disjoint sets of them that a run uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.datasets.errors import DatasetError
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

    name: str
    train: Pictures
    held_out: Pictures
    num_classes: int

    @property
    def resolution(self) -> int:
        return int(self.train.images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    def check(self, network: NetworkConfig) -> None:
        """Raises DatasetError when `network` cannot take these pictures; an unconditional network ignores labels."""
        facts = (
            ("img_resolution", network.img_resolution, self.resolution),
            ("img_channels", network.img_channels, self.channels),
        )
        for field, given, allowed in facts:
            if given != allowed:
                raise DatasetError(f"network.{field} is {given}, but the pictures of {self.name} need {allowed}")
        if network.label_dim not in (0, self.num_classes):
            raise DatasetError(
                f"network.label_dim is {network.label_dim}, but {self.name} has {self.num_classes} classes; "
                f"use {self.num_classes}, or 0 for an unconditional network"
            )
