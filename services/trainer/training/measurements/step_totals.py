"""Sums over training steps, from which the means of a status are computed."""

from __future__ import annotations

import time

import torch

from phema.services.trainer.training.measurements.loss_by_noise_level import LossByNoiseLevel
from phema.services.trainer.training.step import StepFigures
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.recipes.run_config import RunConfig


class StepTotals:
    """Sums over the steps since the last status.

    Tensors stay on the device; reading one waits for the device, so `means` is called only when a status is due.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._config = config
        self._since = time.perf_counter()
        self._images = 0
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
        self._weighted_mse = torch.zeros_like(self._loss)
        self._grad_norm = torch.zeros_like(self._loss)
        self._nonfinite = torch.zeros((), device=device, dtype=torch.int64)
        self._learning_rate = 0.0
        self._by_noise = None
        if config.noise_level_bins:
            self._by_noise = LossByNoiseLevel(
                config.noise_level_bins, p_mean=config.p_mean, p_std=config.p_std, device=device
            )

    def add(self, figures: StepFigures) -> None:
        """Add one step. Does not wait for the device."""
        self._images += self._config.batch_size
        self._loss += figures.loss
        self._weighted_mse += figures.weighted_mse.sum()
        if self._by_noise is not None:
            self._by_noise.add(figures.sigma, figures.weighted_mse)
        self._grad_norm += figures.grad_norm
        self._nonfinite += figures.nonfinite
        self._learning_rate = figures.learning_rate

    def sum_over_workers(self, group: WorkerGroup) -> None:
        """Add the losses of all workers; every worker must call it. The gradient's figures are of the whole batch."""
        self._loss, self._weighted_mse = group.sum_(torch.stack([self._loss, self._weighted_mse])).unbind()
        if self._by_noise is not None:
            group.sum_(self._by_noise.sums)

    def means(self, data_wait_seconds: float) -> dict[str, float]:
        """The figures of a history row, averaged over the steps. Waits for the device.

        `data_wait_seconds` is the part of the time in which this worker's steps waited for their batches.
        """
        loss, weighted_mse = torch.stack([self._loss, self._weighted_mse]).tolist()
        seconds = time.perf_counter() - self._since  # after the device has finished the steps
        network = self._config.network
        elements = network.img_channels * network.img_resolution**2
        values = {
            "loss": loss / (self._images * elements),
            "denoising_loss": weighted_mse / self._images,
            "learning_rate": self._learning_rate,
            "grad_norm": float(self._grad_norm) * self._config.batch_size / self._images,
            "grad_nonfinite": float(self._nonfinite),
            "images_per_second": self._images / seconds,
            "data_wait_share": data_wait_seconds / seconds,
        }
        if self._by_noise is not None:
            values |= self._by_noise.means()
        return values
