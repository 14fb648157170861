"""Batches of one worker, as a pure function of the number of images seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phema.services.trainer.training.picture_noise import picture_noise
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import Dataset, EpochSampler
from phema.shared.edm2.device import memory_format
from phema.shared.edm2.networks.label_rows import label_rows
from phema.shared.edm2.seeding import picture_seeds
from phema.shared.recipes.run_config import RunConfig


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch, on its device.

    `images`: float32 [N, C, H, W] in [-1, 1]. `labels`: float32 [N, label_dim], one-hot rows of classes or label
    vectors; None for an unconditional network. `sigma`: noise levels, float32 [N]. `noise`: standard normal, float32,
    same shape as `images`.
    """

    images: Tensor
    labels: Tensor | None
    sigma: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`. To a GPU it is copied asynchronously and in the network's memory format."""
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        wanted = memory_format(device)
        images, noise = (moved(t).contiguous(memory_format=wanted) for t in (self.images, self.noise))
        return Batch(images, None if self.labels is None else moved(self.labels), moved(self.sigma), noise)

    def parts(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of at most `size` pictures, for gradient accumulation."""
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            yield Batch(self.images[part], labels, self.sigma[part], self.noise[part])


class Batches:
    """Pictures and noise of one worker.

    Everything random about a picture (which picture it is, whether it is mirrored, noise level, noise, sample of a
    latent) depends only on the run's seed and on the picture's position in the run. Any number of workers and any
    gradient accumulation therefore see the data that a single worker would see, and a run can resume at any image.
    """

    def __init__(self, dataset: Dataset, config: RunConfig, group: WorkerGroup) -> None:
        self._pictures = dataset.train
        self._config = config
        self._group = group
        self._share = config.batch_size // group.world_size
        self._sampler = EpochSampler(
            len(self._pictures), seed=config.seed, rank=group.rank, world_size=group.world_size
        )

    def at(self, num_images: int) -> Batch:
        """This worker's share of the batch that starts when the run has seen `num_images`. Thread-safe."""
        config, device = self._config, self._group.device
        positions = num_images + self._group.rank + self._group.world_size * np.arange(self._share)
        pictures, classes = self._pictures.batch(
            self._sampler.take(num_images, self._share), picture_seeds(config.seed, positions, "latent")
        )
        if config.dataset.flip:
            mirrored = picture_seeds(config.seed, positions, "flip") % 2 == 1
            pictures[mirrored] = pictures[mirrored, ..., ::-1]
        images = torch.from_numpy(pictures)
        labels = label_rows(classes, config.network.label_dim)
        sigma, noise = picture_noise(config.seed, positions, images.shape[1:], p_mean=config.p_mean, p_std=config.p_std)
        return Batch(images, labels, sigma, noise).to(device)
