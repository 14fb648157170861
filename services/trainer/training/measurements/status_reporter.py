"""The periodic status of a run, every `status_every` images: history rows, metrics and progress."""

from __future__ import annotations

import logging

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.measurements.magnitudes import magnitudes_due, measure_magnitudes
from phema.services.trainer.training.measurements.step_totals import StepTotals
from phema.services.trainer.training.measurements.stopwatch import Stopwatch
from phema.services.trainer.training.measurements.training_metrics import set_training_metrics
from phema.services.trainer.training.step import StepFigures
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.service_runtime.catalog_outages import outlast
from phema.shared.telemetry import Meters, metrics

_log = logging.getLogger(__name__)


class StatusReporter:
    """Collects the figures of every step on every worker; the first worker publishes them.

    Its metrics exist from the start, with the images of the run's latest checkpoint.

    A history row holds: `loss` (uncertainty-weighted, per element), `denoising_loss` (plain, lambda-weighted, 1 for a
    network whose output is 0), `loss_by_noise/<bin>` (the same per bin of the noise level, if the run asks for it),
    `learning_rate`, `grad_norm` (mean over steps), `grad_nonfinite` (elements since the last row),
    `images_per_second`, `data_wait_share` (share of the first worker's time), `step_seconds/<part>` (mean over the
    first worker's steps, see `Stopwatch`), and the magnitudes when they are due.
    """

    def __init__(self, attempt: TrainingAttempt, *, catalog: Catalog, group: WorkerGroup, meters: Meters) -> None:
        self._attempt, self._catalog, self._group, self._meters = attempt, catalog, group, meters
        self._unwritten: dict[int, dict[str, float]] = {}
        """History rows that are not in the catalog yet, by number of images."""
        self._data_wait_seconds = 0.0
        self._begun = False
        """Whether the catalog knows that the attempt trains."""
        self.stopwatch = Stopwatch(group.device)
        """The loop reports to it when each part of a step ends."""
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
        """Begin measuring at `num_images`, just before the first step. Every worker must call it.

        The run is `running` from here. If the catalog is unreachable, it is so with the next status. Raises LeaseLost.
        """
        self._meters.set(metrics.TRAINING_IMAGES, num_images, run_id=self._attempt.run_id)
        if self._group.is_first:
            try:
                with self._catalog.transaction() as tx:
                    tx.leases.begin_work(self._attempt.job_id, self._attempt.fence)
                self._begun = True
            except CatalogUnreachable as error:
                _log.warning("the run is shown as running later: %s", error)
        self._reset()

    def _reset(self) -> None:
        self._totals = StepTotals(self._attempt.config, self._group.device)
        self._data_wait_seconds_before = self._data_wait_seconds
        self.stopwatch.reset()

    def add(self, figures: StepFigures, num_images: int) -> None:
        """Add the figures of the step that ended at `num_images`. Does not wait for the device."""
        self._meters.set(metrics.TRAINING_IMAGES, num_images, run_id=self._attempt.run_id)
        self._totals.add(figures)

    def is_due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.status_every == 0 or num_images == config.total_images

    def publish(self, state: TrainingState, batch: Batch, data_wait_seconds: float) -> None:
        """Publish the figures since the last status. Every worker must call it.

        `data_wait_seconds` is the time that this worker's steps have waited for their batches since the loop began.
        Raises LeaseLost when this attempt no longer holds the run.
        """
        self._data_wait_seconds = data_wait_seconds
        self._totals.sum_over_workers(self._group)
        if self._group.is_first:
            values = self._values(state, batch)
            set_training_metrics(self._meters, self._attempt.run_id, values, self._group.device)
            self._unwritten[state.num_images] = values
            self.record(state.num_images)
        self._reset()

    def _values(self, state: TrainingState, batch: Batch) -> dict[str, float]:
        config = self._attempt.config
        values = self._totals.means(self._data_wait_seconds - self._data_wait_seconds_before)
        values |= {f"step_seconds/{part}": mean for part, mean in self.stopwatch.means().items()}
        if magnitudes_due(config, state.num_images):
            values |= measure_magnitudes(state, next(batch.parts(config.microbatch)))
        return values

    def record(self, num_images: int) -> None:
        """Write progress and history to the catalog. Raises LeaseLost.

        If the catalog is unreachable, the rows are written with the next status, or by `finish`.
        """
        try:
            self._write(num_images)
        except CatalogUnreachable as error:
            _log.warning("history waits for the catalog: %s", error, extra={"num_images": num_images})

    def finish(self, outage_s: float) -> None:
        """Write the rows that still wait, once every upload has ended. Only the first worker calls it.

        Raises LeaseLost, and CatalogUnreachable when the catalog is away for longer than `outage_s`.
        """
        if self._unwritten:
            outlast(lambda: self._write(max(self._unwritten)), "the run's history", limit_s=outage_s)

    def _write(self, num_images: int) -> None:
        attempt = self._attempt
        with attempt.fenced_transaction(self._catalog) as (tx, _):
            if not self._begun:
                tx.leases.begin_work(attempt.job_id, attempt.fence)
            for time_of_row, row in self._unwritten.items():
                tx.history.put(attempt.run_id, time_of_row, row)
            tx.runs.set_progress(attempt.run_id, num_images)
        self._begun = True
        self._unwritten.clear()
