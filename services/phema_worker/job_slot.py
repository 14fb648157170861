"""A thread of a worker that claims jobs, lets an actor do their tasks, and writes how they ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from phema.services.phema_worker.attempt import Attempt
from phema.services.phema_worker.evaluation.jobs import report_part
from phema.services.phema_worker.evaluation.tasks import Drawn, Prepared, PrepareTask
from phema.services.phema_worker.finished_weights import ImpossibleJob
from phema.services.phema_worker.job_tasks import begin_task
from phema.services.phema_worker.task_outcomes import Done, Failed, Outcome, Stopped
from phema.services.phema_worker.tasks import CompactTask, PreviewDone, ReconstructTask, RetainTask, SampleDone, Task
from phema.shared.catalog import (
    BeingDeleted,
    Catalog,
    CatalogUnreachable,
    FailureCause,
    Job,
    JobState,
    LeaseLost,
    NotFound,
)
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry import metrics as m

log = logging.getLogger(__name__)
_REPORT_SECONDS = 1.0
"""Shortest time between two reports of how many parts of an evaluation are drawn."""


class JobSlot:
    """Base of the slots of a worker. One thread uses it. A subclass chooses the actor, in `_perform`."""

    def __init__(
        self, feed: JobFeed, settings: Settings, catalog: Catalog, meters: Meters, stopping: threading.Event
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._catalog = catalog
        self._meters = meters
        self._stopping = stopping
        self._reported_at = 0.0

    def _perform(self, attempt: Attempt, task: Task) -> Outcome:
        """Let an actor do the task. Returns what an actor's death means instead of raising it."""
        raise NotImplementedError

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        """The slot has a job in the block."""
        yield

    def _work_once(self) -> bool:
        """Wait a while for a job and work on it to its end. False when none came."""
        job = self._feed.next(self._stopping)
        if job is None:
            return False
        claimed = time.monotonic()
        with log_fields(**job.ids):
            log.info("claimed a job: %s", job.kind)
            with self._occupied():
                state = self._work(job)
            seconds = time.monotonic() - claimed
            log.info("the job is %s", state or "no longer ours", extra={"seconds": round(seconds, 3)})
        if state is not None and state.terminal:
            self._meters.observe(m.JOB_SECONDS, seconds, kind=str(job.kind), state=str(state))
        return True

    def _work(self, job: Job) -> JobState | None:
        attempt = Attempt(job, self._settings, self._catalog, self._stopping)
        outcome: Outcome | None = None
        try:
            with self._catalog.transaction() as tx:
                task = begin_task(tx, job)
            if task is not None:
                outcome = self._perform(attempt, task)
            if isinstance(task, PrepareTask) and isinstance(outcome, Prepared):
                following = attempt.next_task(task, outcome)
                if following is None:
                    return JobState.QUEUED
                task, outcome = following, self._perform(attempt, following)
        except (BeingDeleted, LeaseLost) as error:
            log.warning("%s", error)
            return None
        except (ImpossibleJob, NotFound) as error:
            return attempt.conclude(None, Failed(str(error), retry=False, cause=FailureCause.CONFIGURATION))
        if isinstance(outcome, Failed):
            log.warning("the attempt failed: %s", outcome.error)
        state = attempt.conclude(task, outcome)
        if state is JobState.SUCCEEDED and isinstance(outcome, Done):
            self._count(task, outcome)
            if isinstance(outcome, Drawn):
                self._report_part(job)
        return state

    def _report_part(self, job: Job) -> None:
        """In a transaction of its own: one that has ended the part's job may not wait for the evaluation's row."""
        if time.monotonic() - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        try:
            with self._catalog.transaction() as tx:
                report_part(tx, job)
        except CatalogUnreachable as error:
            log.warning("the progress of an evaluation was not shown: %s", error)

    def _unresponsive(self) -> Outcome:
        """The outcome of a task whose actor was killed because it did not stop."""
        log.warning("the actor did not stop in time and is killed")
        return Stopped()

    def _died(self, error: RayError) -> Outcome:
        """The outcome of a task whose actor died."""
        log.warning("the actor died: %s", error)
        self._meters.add(m.ACTOR_RESTARTS)
        sentence = f"the process that worked on it died (killed or out of memory: {type(error).__name__})"
        return Failed(sentence, retry=True, cause=FailureCause.LOST_NODE)

    def _count(self, task: Task | None, done: Done) -> None:
        if isinstance(task, RetainTask):
            self._meters.add(m.SNAPSHOTS_DELETED, len(task.doomed))
            self._meters.add(m.SNAPSHOT_BYTES_FREED, task.bytes_to_free)
        elif isinstance(task, ReconstructTask):
            if isinstance(task, CompactTask):
                self._meters.add(m.BASES)
            else:
                self._meters.add(m.RECONSTRUCTIONS, len(done.written))
            self._meters.add(m.RECONSTRUCTION_BYTES_READ, task.bytes_to_read)
            self._meters.add(m.RECONSTRUCTION_BYTES_WRITTEN, sum(written.size for written in done.written))
            self._meters.add(m.RECONSTRUCTION_SECONDS, done.seconds)
        elif isinstance(done, SampleDone | PreviewDone):
            self._meters.add(m.SAMPLED_PICTURES, done.num_sampled)
            self._meters.add(m.SAMPLE_SECONDS, done.seconds)
        elif isinstance(done, Drawn):
            self._meters.add(m.EVALUATION_SAMPLES, done.num_sampled)
            self._meters.add(m.EVALUATION_SECONDS, done.seconds)
        else:
            self._meters.add(m.EVALUATION_SECONDS, done.seconds)
