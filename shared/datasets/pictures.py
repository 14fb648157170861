"""The interface of pictures, and a dataset of two disjoint sets of them: for training and held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.edm2.networks.config import NetworkConfig

Images = NDArray[np.float32]
Integers = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.float32]


class Pictures(Protocol):
    """Numbered pictures that are read on demand. Thread-safe."""

    @property
    def labels(self) -> Labels:
        """int64 [N], each below the dataset's number of classes; zeros for a dataset without labels. Of a dataset whose
        labels are vectors, float32 [N, D]."""

    def __len__(self) -> int: ...

    def batch(self, indices: Integers, seeds: Integers | None = None) -> tuple[Images, Labels]:
        """The pictures at `indices` [n]: float32 [n, C, H, W], RGB and grey in [-1, 1], and their `labels`.

        Of latents, picture i is the sample mean + std * eps drawn from seeds[i], or the mean without `seeds`. Other
        pictures ignore `seeds`. Raises DatasetError if a picture cannot be read.
        """


@dataclass(frozen=True)
class InMemory:
    """`images` float32 [N, C, H, W] in [-1, 1]; `labels` int64 [N], or vectors float32 [N, D]."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Integers, seeds: Integers | None = None) -> tuple[Images, Labels]:
        """Copies of the pictures at `indices`; `seeds` are ignored."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True)
class Dataset:
    """`train` is what a run trains on; `held_out` has no picture in common with it."""

    info: DatasetInfo
    train: Pictures
    held_out: Pictures
    verify: Callable[[], None] = lambda: None
    """Decodes a sample of the pictures before a run starts. Raises DatasetError if one is broken."""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def resolution(self) -> int:
        return self.info.resolution

    @property
    def channels(self) -> int:
        return self.info.channels

    @property
    def num_classes(self) -> int:
        return self.info.num_classes

    def check(self, network: NetworkConfig) -> None:
        """Raises DatasetError if `network` cannot take these pictures."""
        self.info.check_network(network)
