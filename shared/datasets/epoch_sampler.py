"""The order in which a run sees its pictures, as a pure function of the images seen."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.errors import DatasetError


class EpochSampler:
    """Every picture once per epoch, in a permutation drawn from (seed, epoch).

    There is no state between calls, so a run resumes at any image. A rank takes the positions num_images + rank,
    num_images + rank + world_size, …: ranks never share a picture, and together they see what a single worker would.
    Thread-safe. Raises DatasetError for no pictures or a rank that is not below `world_size`.
    """

    def __init__(self, num_pictures: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if num_pictures < 1:
            raise DatasetError(f"num_pictures is {num_pictures}; a sampler needs at least 1")
        if not 0 <= rank < world_size:
            raise DatasetError(f"rank {rank} is not below world_size {world_size}")
        self._num_pictures = num_pictures
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._lock = threading.Lock()
        self._orders: dict[int, NDArray[np.int64]] = {}

    def take(self, num_images: int, count: int) -> NDArray[np.int64]:
        """Indices [count] of this rank's share of the batch that starts when the run has seen `num_images`."""
        positions = num_images + self._rank + self._world_size * np.arange(count, dtype=np.int64)
        epochs, places = np.divmod(positions, self._num_pictures)
        indices = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self._permutation(int(epoch))[places[here]]
        return indices

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        with self._lock:
            if epoch not in self._orders:
                digest = hashlib.sha256(f"epoch:{self._seed}:{epoch}".encode()).digest()
                # RandomState's stream is frozen by NumPy's policy; Generator's is not.
                random = np.random.RandomState(int.from_bytes(digest[:4], "little"))
                order = random.permutation(self._num_pictures).astype(np.int64)
                # Keep the previous epoch too: threads that read ahead may be on both sides of its end.
                self._orders = {known: old for known, old in self._orders.items() if known == epoch - 1}
                self._orders[epoch] = order
            return self._orders[epoch]
