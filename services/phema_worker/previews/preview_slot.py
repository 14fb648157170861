"""The thread of a worker that claims previews and lends them a warm actor."""

from __future__ import annotations

import threading

import ray
from ray.exceptions import RayError

from phema.services.phema_worker.attempt import Attempt, Unresponsive
from phema.services.phema_worker.job_slot import JobSlot
from phema.services.phema_worker.task_outcomes import Outcome, Stopped
from phema.services.phema_worker.tasks import Task
from phema.services.phema_worker.warm_actors import WarmActors
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters


class PreviewSlot(JobSlot):
    """Claims previews, one after another, while any actor of the worker is ready. One thread calls `run`."""

    def __init__(
        self,
        feed: JobFeed,
        settings: Settings,
        catalog: Catalog,
        meters: Meters,
        warm: WarmActors,
        stopping: threading.Event,
    ) -> None:
        super().__init__(feed, settings, catalog, meters, stopping)
        self._warm = warm

    def run(self) -> None:
        """Raises only errors that a restart of the process may cure; a failed job raises nothing."""
        while not self._stopping.is_set():
            try:
                ready = self._warm.any
                if ready:
                    self._work_once()
            except CatalogUnreachable as error:
                self._feed.outages.missed(error)
                ready = False
            if not ready:
                self._stopping.wait(self._settings.poll_seconds)

    def _perform(self, attempt: Attempt, task: Task) -> Outcome:
        with self._warm.borrowed() as found:
            if found is None:
                return Stopped()  # the actor ended after the claim: the job goes back to the queue
            slot, actor = found
            try:
                return attempt.perform(actor, task)
            except Unresponsive:
                ray.kill(actor)
                self._warm.remove(slot)
                return self._unresponsive()
            except RayError as error:
                self._warm.remove(slot)
                return self._died(error)
