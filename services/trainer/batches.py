"""What one worker learns from in one iteration, as a pure function of the run's clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.trainer.group import Group
from shared.datasets import Dataset, EpochSampler
from shared.edm2.loss import draw_sigma
from shared.edm2.seeding import iteration_seed
from shared.recipes.config import RunConfig


@dataclass(frozen=True)
class Batch:
    """A worker's share of a batch, on its device.

    `images` float32 [N, C, H, W] in [-1, 1]; `labels` float32 one-hot [N, label_dim], None for an unconditional
    network; `sigma` [N]; `noise` standard normal like `images`.
    """

    images: Tensor
    labels: Tensor | None
    sigma: Tensor
    noise: Tensor

    def parts(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of `size` pictures, for gradient accumulation."""
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            yield Batch(self.images[part], labels, self.sigma[part], self.noise[part])


class Batches:
    """Pictures and noise of one worker. Drawn for the whole share at once, so that parts of any size see the same."""

    def __init__(self, dataset: Dataset, config: RunConfig, group: Group) -> None:
        self._pictures = dataset.train
        self._config = config
        self._group = group
        self._share = config.batch_size // group.world_size
        self._sampler = EpochSampler(
            len(self._pictures), seed=config.seed, rank=group.rank, world_size=group.world_size
        )

    def at(self, num_images: int) -> Batch:
        """The share of the batch that starts when the run has seen `num_images`.

        Seeds torch's global generators: the dropout of this iteration follows from the clock as well.
        """
        config, device = self._config, self._group.device
        torch.manual_seed(iteration_seed(config.seed, self._group.rank, num_images))
        pictures, classes = self._pictures.batch(self._sampler.take(num_images, self._share))
        images = torch.from_numpy(pictures).to(device)
        labels = None
        if config.network.label_dim:
            labels = F.one_hot(torch.from_numpy(classes), config.network.label_dim).float().to(device)
        sigma = draw_sigma(len(images), p_mean=config.p_mean, p_std=config.p_std, like=images)
        return Batch(images, labels, sigma, torch.randn_like(images))
