"""What a run says of itself every `status_every` images: history rows, metrics, progress."""

from __future__ import annotations

import logging
import time

import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.measurements.loss_by_noise_level import LossByNoiseLevel
from phema.services.trainer.training.measurements.magnitudes import magnitudes, magnitudes_due
from phema.services.trainer.training.measurements.stopwatch import Stopwatch, peak_memory
from phema.services.trainer.training.step import StepFigures
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.telemetry import Meters, metrics

_log = logging.getLogger(__name__)


class StatusReporter:
    """Collects the figures of all workers' steps; the first worker publishes them.

    It is made before anything that may hang: the metrics then say how far the run is, that of its latest checkpoint.

    The history of a run holds, per time: `loss` (uncertainty-weighted, per element), `denoising_loss` (plain, lambda
    weighted, 1 for a network that outputs nothing), `loss_by_noise/<bin>` (the latter by noise level, if the run asks
    for it), `learning_rate`, `grad_norm` (mean over steps), `grad_nonfinite` (elements since the last time),
    `images_per_second`, `data_wait_share` (of the first worker's time), `step_seconds/<part>` (its mean over steps, see
    `Stopwatch`), and the `magnitudes` when they are due.
    """

    def __init__(self, attempt: TrainingAttempt, *, catalog: Catalog, group: WorkerGroup, meters: Meters) -> None:
        self._attempt, self._catalog, self._group, self._meters = attempt, catalog, group, meters
        self._unsent: dict[int, dict[str, float]] = {}
        self._waited = 0.0
        self.watch = Stopwatch(group.device)
        """Told by the loop where the time of its steps goes."""
        labels = {"run_id": attempt.run_id}
        meters.set(metrics.TRAINING_INFO, 1, name=attempt.name, **labels)
        meters.set(metrics.TRAINING_TOTAL_IMAGES, attempt.config.total_images, **labels)
        meters.set(metrics.TRAINING_DEVICES, group.world_size, device=group.device.type, **labels)
        meters.begin(metrics.NONFINITE_GRADIENTS, **labels)
        if group.is_first:
            with catalog.transaction(read_only=True) as tx:
                latest = tx.checkpoints.latest(attempt.run_id)
            meters.set(metrics.TRAINING_IMAGES, latest.num_images if latest else 0, **labels)

    def start(self, num_images: int) -> None:
        """The first step begins, at `num_images`; every worker calls it."""
        self._meters.set(metrics.TRAINING_IMAGES, num_images, run_id=self._attempt.run_id)
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._images = 0
        self._loss = torch.zeros((), device=self._group.device, dtype=torch.float64)
        self._weighted_mse = torch.zeros_like(self._loss)
        self._grad_norm = torch.zeros_like(self._loss)
        self._nonfinite = torch.zeros((), device=self._group.device, dtype=torch.int64)
        config = self._attempt.config
        self._by_noise = None
        if config.noise_level_bins:
            self._by_noise = LossByNoiseLevel(
                config.noise_level_bins, p_mean=config.p_mean, p_std=config.p_std, device=self._group.device
            )
        self._learning_rate = 0.0
        self._waited_before = self._waited
        self.watch.reset()

    def add(self, figures: StepFigures, num_images: int) -> None:
        """Count in one step, which ended at `num_images`; waits for no device."""
        self._meters.set(metrics.TRAINING_IMAGES, num_images, run_id=self._attempt.run_id)
        self._images += self._attempt.config.batch_size
        self._loss += figures.loss
        self._weighted_mse += figures.weighted_mse.sum()
        if self._by_noise is not None:
            self._by_noise.add(figures.sigma, figures.weighted_mse)
        self._grad_norm += figures.grad_norm
        self._nonfinite += figures.nonfinite
        self._learning_rate = figures.learning_rate

    def due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.status_every == 0 or num_images == config.total_images

    def publish(self, state: TrainingState, batch: Batch, waited_seconds: float) -> None:
        """Record the figures since the last time; every worker calls it.

        `waited_seconds` is how long this worker has waited for pictures, in all.

        Raises LeaseLost when this attempt no longer holds the run.
        """
        self._waited = waited_seconds
        sums = self._group.sum_(torch.stack([self._loss, self._weighted_mse]))
        if self._by_noise is not None:
            self._group.sum_(self._by_noise.sums)
        if self._group.is_first:
            loss, weighted_mse = sums.tolist()
            config = self._attempt.config
            network = config.network
            elements = network.img_channels * network.img_resolution**2
            seconds = time.perf_counter() - self._since
            values = {
                "loss": loss / (self._images * elements),
                "denoising_loss": weighted_mse / self._images,
                "learning_rate": self._learning_rate,
                "grad_norm": float(self._grad_norm) * config.batch_size / self._images,
                "grad_nonfinite": float(self._nonfinite),
                "images_per_second": self._images / seconds,
                "data_wait_share": (self._waited - self._waited_before) / seconds,
            }
            values |= {f"step_seconds/{part}": mean for part, mean in self.watch.means().items()}
            if self._by_noise is not None:
                values |= self._by_noise.values()
            if magnitudes_due(config, state.num_images):
                values |= magnitudes(state, next(batch.parts(config.microbatch)))
            self._measure(values)
            self._unsent[state.num_images] = values
            self.record(state.num_images)
        self._begin()

    def record(self, num_images: int) -> None:
        """Write progress and history; while the catalog is away they wait for the next time. Raises LeaseLost."""
        attempt = self._attempt
        try:
            with attempt.writing(self._catalog) as (tx, _):
                for time_of_row, row in self._unsent.items():
                    tx.history.put(attempt.run_id, time_of_row, row)
                tx.runs.set_progress(attempt.run_id, num_images)
        except CatalogUnreachable as error:
            if num_images == attempt.config.total_images:
                raise
            _log.warning("history waits: %s", error, extra={"num_images": num_images})
            return
        self._unsent.clear()

    def _measure(self, values: dict[str, float]) -> None:
        meters, labels = self._meters, {"run_id": self._attempt.run_id}
        meters.set(metrics.TRAINING_LOSS, values["loss"], **labels)
        meters.set(metrics.TRAINING_DENOISING_LOSS, values["denoising_loss"], **labels)
        meters.set(metrics.TRAINING_LEARNING_RATE, values["learning_rate"], **labels)
        meters.set(metrics.GRADIENT_NORM, values["grad_norm"], **labels)
        meters.set(metrics.TRAINING_SPEED, values["images_per_second"], **labels)
        meters.set(metrics.DATA_WAIT_SHARE, values["data_wait_share"], **labels)
        meters.add(metrics.NONFINITE_GRADIENTS, values["grad_nonfinite"], **labels)
        device = self._group.device
        meters.set(metrics.TRAINING_MEMORY, peak_memory(device), device=device.type, **labels)
        families = {"activation": metrics.ACTIVATION_MAGNITUDE, "weight": metrics.WEIGHT_MAGNITUDE}
        for name, value in values.items():
            match name.split("/"):
                case [family, side, resolution, statistic]:
                    place = {"side": side, "resolution": resolution, "statistic": statistic}
                    weights = "training" if family.startswith("training_") else "ema"
                    family = family.removeprefix("training_")
                    meters.set(families[family], value, **place, weights=weights, **labels)
                case ["loss_by_noise", place_of_bin]:
                    meters.set(metrics.LOSS_BY_NOISE, value, bin=place_of_bin, **labels)
                case ["step_seconds", part]:
                    meters.set(metrics.STEP_SECONDS, value, part=part, **labels)
