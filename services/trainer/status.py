"""What a run says of itself every `status_every` images: history rows, metrics, progress."""

from __future__ import annotations

import logging
import time

import torch

from services.trainer.attempt import Attempt
from services.trainer.batches import Batch
from services.trainer.group import Group
from services.trainer.magnitudes import averaged_magnitudes
from services.trainer.state import TrainingState
from services.trainer.step import StepFigures
from shared.catalog import Catalog, CatalogUnreachable
from shared.telemetry import Meters, metrics

_log = logging.getLogger(__name__)


class Status:
    """Collects the figures of all workers' steps; the first worker publishes them.

    The history of a run holds, per time: `loss` (uncertainty-weighted, per element), `denoising_loss` (plain, lambda
    weighted, 1 for a network that outputs nothing), `learning_rate`, `images_per_second`, `grad_nonfinite` (elements
    since the last time), and the magnitudes of `averaged_magnitudes`.
    """

    def __init__(self, attempt: Attempt, *, catalog: Catalog, group: Group, meters: Meters) -> None:
        self._attempt, self._catalog, self._group, self._meters = attempt, catalog, group, meters
        self._unsent: dict[int, dict[str, float]] = {}
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._images = 0
        self._loss = torch.zeros((), device=self._group.device, dtype=torch.float64)
        self._weighted_mse = torch.zeros_like(self._loss)
        self._nonfinite = torch.zeros((), device=self._group.device, dtype=torch.int64)
        self._learning_rate = 0.0

    def add(self, figures: StepFigures) -> None:
        """Count one step in; waits for no device."""
        self._images += self._attempt.config.batch_size
        self._loss += figures.loss
        self._weighted_mse += figures.weighted_mse
        self._nonfinite += figures.nonfinite
        self._learning_rate = figures.learning_rate

    def due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.status_every == 0 or num_images == config.total_images

    def publish(self, state: TrainingState, batch: Batch) -> bool:
        """Record the figures since the last time; every worker calls it. True when the run should stop.

        Raises LeaseLost when this attempt no longer holds the run.
        """
        sums = self._group.sum_(torch.stack([self._loss, self._weighted_mse]))
        stop = False
        if self._group.is_first:
            loss, weighted_mse = sums.tolist()
            network = self._attempt.config.network
            elements = network.img_channels * network.img_resolution**2
            values = {
                "loss": loss / (self._images * elements),
                "denoising_loss": weighted_mse / self._images,
                "learning_rate": self._learning_rate,
                "images_per_second": self._images / (time.perf_counter() - self._since),
                "grad_nonfinite": float(self._nonfinite),
                **averaged_magnitudes(state, next(batch.parts(self._attempt.config.microbatch))),
            }
            self._measure(state.num_images, values)
            stop = self._record(state.num_images, values)
        self._begin()
        return self._group.first_says(stop)

    def _record(self, num_images: int, values: dict[str, float]) -> bool:
        """Write the history; while the catalog is away rows wait for the next time. True on a cancel request."""
        attempt = self._attempt
        self._unsent[num_images] = values
        try:
            with attempt.writing(self._catalog) as (tx, job):
                for time_of_row, row in self._unsent.items():
                    tx.history.put(attempt.run_id, time_of_row, row)
                tx.runs.set_progress(attempt.run_id, num_images)
        except CatalogUnreachable as error:
            if num_images == attempt.config.total_images:
                raise
            _log.warning("history waits: %s", error, extra={"num_images": num_images})
            return False
        self._unsent.clear()
        return job.cancel_requested

    def _measure(self, num_images: int, values: dict[str, float]) -> None:
        meters, labels = self._meters, {"run_id": self._attempt.run_id}
        meters.set(metrics.TRAINING_IMAGES, num_images, **labels)
        meters.set(metrics.TRAINING_TOTAL_IMAGES, self._attempt.config.total_images, **labels)
        meters.set(metrics.TRAINING_LOSS, values["loss"], **labels)
        meters.set(metrics.TRAINING_LEARNING_RATE, values["learning_rate"], **labels)
        meters.set(metrics.TRAINING_SPEED, values["images_per_second"], **labels)
        meters.add(metrics.NONFINITE_GRADIENTS, values["grad_nonfinite"], **labels)
        families = {"activation": metrics.ACTIVATION_MAGNITUDE, "weight": metrics.WEIGHT_MAGNITUDE}
        for name, value in values.items():
            family, *bucket = name.split("/")
            if bucket:
                side, resolution, statistic = bucket
                place = {"side": side, "resolution": resolution, "statistic": statistic}
                meters.set(families[family], value, **place, **labels)
