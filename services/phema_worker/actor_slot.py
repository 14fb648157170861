"""One Ray actor and the thread that claims jobs for it, one after another."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from phema.services.phema_worker.actor import start_actor
from phema.services.phema_worker.actor_demand import ActorDemand
from phema.services.phema_worker.attempt import Attempt, Unresponsive
from phema.services.phema_worker.job_tasks import ImpossibleJob, begin_task
from phema.services.phema_worker.tasks import (
    CompactTask,
    Done,
    Failed,
    Outcome,
    ReconstructTask,
    RetainTask,
    Stopped,
    Task,
)
from phema.shared.catalog import BeingDeleted, Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, NotFound
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry import metrics as m

log = logging.getLogger(__name__)

KINDS = (JobKind.RECONSTRUCT, JobKind.COMPACT, JobKind.EVALUATE, JobKind.RETAIN)
_WARN_SECONDS = 30.0
"""An actor that waits longer for its resources is logged."""


class ActorSlot:
    """Claims jobs until `stopping` is set, then hands back the job it holds. One thread calls `run`."""

    def __init__(
        self,
        feed: JobFeed,
        settings: Settings,
        catalog: Catalog,
        meters: Meters,
        demand: ActorDemand,
        stopping: threading.Event,
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._catalog = catalog
        self._meters = meters
        self._demand = demand
        self._stopping = stopping
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
                    log.warning("%s", error)
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
            if self._demand.must_end(self, idle_seconds):
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
            ray.kill(self._actor)
            self._actor = None
            self._demand.ended(self)

    def _work_once(self) -> bool:
        """Wait a while for a job and work on it to its end. False when none came."""
        job = self._feed.next(self._stopping)
        if job is None:
            return False
        claimed = time.monotonic()
        with log_fields(**job.ids):
            log.info("claimed a job: %s", job.kind)
            self._demand.began(self)
            try:
                state = self._work(job)
            finally:
                self._demand.freed(self)
            seconds = time.monotonic() - claimed
            log.info("the job is %s", state or "no longer ours", extra={"seconds": round(seconds, 3)})
        if state is not None and state.terminal:
            self._meters.observe(m.JOB_SECONDS, seconds, kind=str(job.kind), state=str(state))
        return True

    def _work(self, job: Job) -> JobState | None:
        attempt = Attempt(job, self._settings, self._catalog, self._stopping)
        try:
            with self._catalog.transaction() as tx:
                task = begin_task(tx, job)
        except (BeingDeleted, LeaseLost) as error:
            log.warning("%s", error)
            return None
        except (ImpossibleJob, NotFound) as error:
            return attempt.conclude(None, Failed(str(error), retry=False))
        outcome = self._perform(attempt, task) if task is not None else None
        if isinstance(outcome, Failed):
            log.warning("the attempt failed: %s", outcome.error)
        state = attempt.conclude(task, outcome)
        if state is JobState.SUCCEEDED and isinstance(outcome, Done):
            self._count(task, outcome)
        return state

    def _perform(self, attempt: Attempt, task: Task) -> Outcome:
        try:
            return attempt.perform(self._actor, task)
        except Unresponsive:
            log.warning("the actor did not stop in time and is killed")
            self._drop_actor()
            return Stopped()
        except RayError as error:
            log.warning("the actor died: %s", error)
            self._drop_actor()
            self._meters.add(m.ACTOR_RESTARTS)
            sentence = f"the process that worked on it died (killed or out of memory: {type(error).__name__})"
            return Failed(sentence, retry=True)

    def _count(self, task: Task | None, done: Done) -> None:
        if isinstance(task, RetainTask):
            self._meters.add(m.SNAPSHOTS_DELETED, len(task.doomed))
            self._meters.add(m.SNAPSHOT_BYTES_FREED, task.bytes_to_free)
        elif isinstance(task, CompactTask):
            self._meters.add(m.BASES)
            self._meters.add(m.RECONSTRUCTION_BYTES_READ, task.bytes_to_read)
            self._meters.add(m.RECONSTRUCTION_BYTES_WRITTEN, sum(written.size for written in done.written))
            self._meters.add(m.RECONSTRUCTION_SECONDS, done.seconds)
        elif isinstance(task, ReconstructTask):
            self._meters.add(m.RECONSTRUCTIONS, len(done.written))
            self._meters.add(m.RECONSTRUCTION_BYTES_READ, task.bytes_to_read)
            self._meters.add(m.RECONSTRUCTION_BYTES_WRITTEN, sum(written.size for written in done.written))
            self._meters.add(m.RECONSTRUCTION_SECONDS, done.seconds)
        else:
            self._meters.add(m.EVALUATION_SAMPLES, done.num_sampled)
            self._meters.add(m.EVALUATION_SECONDS, done.seconds)
