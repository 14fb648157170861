"""One Ray actor and the thread that claims jobs for it, one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from phema.services.phema_worker.actor import start_actor
from phema.services.phema_worker.actor_demand import ActorDemand
from phema.services.phema_worker.attempt import Attempt, Unresponsive
from phema.services.phema_worker.job_slot import JobSlot
from phema.services.phema_worker.task_outcomes import Outcome
from phema.services.phema_worker.tasks import Task
from phema.services.phema_worker.warm_actors import WarmActors
from phema.shared.catalog import Catalog, CatalogUnreachable, JobKind
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters

log = logging.getLogger(__name__)

KINDS = (
    JobKind.RECONSTRUCT,
    JobKind.COMPACT,
    JobKind.EVALUATE,
    JobKind.DRAW,
    JobKind.SAMPLE,
    JobKind.RETAIN,
)
_WARN_SECONDS = 30.0
"""An actor that waits longer for its resources is logged."""


class ActorSlot(JobSlot):
    """Claims jobs until `stopping` is set, then hands back the job it holds. One thread calls `run`."""

    def __init__(
        self,
        feed: JobFeed,
        settings: Settings,
        catalog: Catalog,
        meters: Meters,
        demand: ActorDemand,
        warm: WarmActors,
        stopping: threading.Event,
    ) -> None:
        super().__init__(feed, settings, catalog, meters, stopping)
        self._demand = demand
        self._warm = warm
        self._actor: Any = None

    def run(self) -> None:
        """Raises only errors that a restart of the process may cure; a failed job raises nothing."""
        idle_since = time.monotonic()
        try:
            while not self._stopping.is_set():
                try:
                    ready = self._actor_is_ready(time.monotonic() - idle_since)
                    busy = ready and self._work_once()
                except CatalogUnreachable as error:
                    self._feed.outages.missed(error)
                    ready = busy = False
                if busy or self._actor is None:
                    idle_since = time.monotonic()
                if not ready:
                    self._stopping.wait(self._settings.poll_seconds)
        finally:
            self._drop_actor()

    def _actor_is_ready(self, idle_seconds: float) -> bool:
        """Whether there is an actor. Starts one that has work to do, and ends one that has had none for too long.

        Jobs are claimed only afterwards, so that no job waits for a worker that has no resources for it.
        """
        if self._actor is not None:
            if not self._warm.has(self):  # it died while a preview had borrowed it
                self._drop_actor()
            elif not self._warm.is_borrowed(self) and self._demand.must_end(self, idle_seconds):
                log.info("an actor without work ends")
                self._drop_actor()
            return self._actor is not None
        if not self._demand.may_start(self):
            return False
        self._actor = self._started_actor()
        if self._actor is None:
            self._demand.ended(self)
        else:
            self._demand.ready(self)
            self._warm.add(self, self._actor)
        return self._actor is not None

    def _started_actor(self) -> Any:
        """A new actor that is ready; None when it did not start, or the process stops."""
        actor = start_actor(self._settings)
        answer = actor.ready.remote()
        warned, started = False, time.monotonic()
        while not ray.wait([answer], timeout=0.2)[0]:
            if self._stopping.is_set():
                ray.kill(actor)
                return None
            if not warned and time.monotonic() - started > _WARN_SECONDS:
                log.warning(
                    "Ray has had no room for an actor with %g CPUs and %g GPUs for %g s; still waiting",
                    self._settings.actor_cpus,
                    self._settings.actor_gpus,
                    _WARN_SECONDS,
                )
                warned = True
        try:
            log.info("the actor with process id %d is ready on %s", *ray.get(answer))
        except RayError as error:
            log.error("an actor did not start: %s", error)
            return None
        return actor

    def _drop_actor(self) -> None:
        if self._actor is not None:
            self._warm.remove(self)
            ray.kill(self._actor)
            self._actor = None
            self._demand.ended(self)

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        self._demand.began(self)
        try:
            yield
        finally:
            self._demand.freed(self)

    def _perform(self, attempt: Attempt, task: Task) -> Outcome:
        try:
            return attempt.perform(self._actor, task)
        except Unresponsive:
            self._drop_actor()
            return self._unresponsive()
        except RayError as error:
            self._drop_actor()
            return self._died(error)
