"""The trainer's main loop: brings the jobs on Ray in line with the `train` jobs in the catalog.

The catalog holds all state that matters, so the reconciler may be killed at any time, and several may run at once. The
id of a Ray job consists of the job's id and fence, so each attempt is submitted at most once. Ray's status is trusted
only when it says that a job has ended.
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from phema.services.trainer.control.attempt_logs import AttemptLogs
from phema.services.trainer.control.job_environment import job_environment
from phema.services.trainer.control.ray_jobs import RayJob, RayJobs, RayUnavailable
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, submission_id
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields, metrics

CANCEL_GRACE_SECONDS = 30.0
"""A cancelled training is ended if the job's message has not changed for so long; a run that is stopping updates it."""
CLEAN_UP_SECONDS = 3600.0
"""Seconds between two deletions of old idempotency records."""
_log = logging.getLogger(__name__)


class Reconciler:
    """Claims `train` jobs, submits their attempts to Ray, and retries attempts that end without a result."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        ray_jobs: RayJobs,
        meters: Meters,
        *,
        owner: str,
        logs: AttemptLogs | None = None,
        cancel_grace_s: float = CANCEL_GRACE_SECONDS,
    ) -> None:
        self._settings, self._catalog, self._ray, self._meters = settings, catalog, ray_jobs, meters
        self._owner, self._cancel_grace_s = owner, cancel_grace_s
        self._logs = logs
        self._adopted = False
        self._own_running: set[str] = set()
        """Ids of the running jobs whose lease this trainer owns."""
        self._cancel_messages: dict[str, tuple[str | None, float]] = {}
        """The latest message of each cancelled job, and the monotonic time at which it was first seen."""
        self._last_warning = ""
        self._cleaned_up_at = -math.inf
        for outcome in ("submitted", "lost", "expired", "cancelled"):
            meters.begin(metrics.TRAINING_ATTEMPTS, outcome=outcome)
        for state in filter(lambda state: state.terminal, JobState):
            meters.begin(metrics.JOB_SECONDS, kind=JobKind.TRAIN.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Reconcile every `poll_seconds` until `stopping` is set. Running trainings continue after that."""
        while not stopping.is_set():
            try:
                self.reconcile()
                self._last_warning = ""
            except (CatalogUnreachable, RayUnavailable) as error:
                self._warn_once(error)
                self._cancel_messages.clear()  # messages may have changed unseen meanwhile
            stopping.wait(self._settings.poll_seconds)

    def reconcile(self) -> None:
        """One round. Raises CatalogUnreachable and RayUnavailable; the next round continues with the rest.

        The first round takes over the leases of the trainings that are running. The owner of a lease counts the job's
        end in the metrics, so of several trainers exactly one does.
        """
        if not self._adopted:
            with self._catalog.transaction() as tx:
                tx.leases.adopt([JobKind.TRAIN], owner=self._owner)
            self._adopted = True
        with self._catalog.transaction() as tx:
            expired = tx.leases.expire([JobKind.TRAIN])
        for job in expired:
            self._end_expired(job)
        with self._catalog.transaction(read_only=True) as tx:
            running = tx.jobs.running(JobKind.TRAIN)
        for job in running:
            with self._logging_about(job):
                self._watch(job)
        self._measure(running)
        self._clean_up()
        self._claim()
        if self._logs is not None:
            self._logs.keep(running)

    @contextmanager
    def _logging_about(self, job: Job) -> Iterator[None]:
        """Add the job's log fields to every line in the block, also to the warning about Ray being unavailable."""
        with log_fields(**job.ids):
            try:
                yield
            except RayUnavailable as error:
                self._warn_once(error)
                raise

    def _warn_once(self, error: CatalogUnreachable | RayUnavailable) -> None:
        if str(error) != self._last_warning:  # not again at every poll
            _log.warning("%s", error)
        self._last_warning = str(error)

    def _clean_up(self) -> None:
        """Delete old idempotency records, hourly. Several trainers may do so at once."""
        if time.monotonic() - self._cleaned_up_at < CLEAN_UP_SECONDS:
            return
        with self._catalog.transaction() as tx:
            tx.idempotency.forget_old()
        self._cleaned_up_at = time.monotonic()

    def _claim(self) -> None:
        """Claim and submit jobs up to `max_running_trainings`. Claims nothing while Ray is unavailable."""
        while True:
            with self._catalog.transaction(read_only=True) as tx:
                if len(tx.jobs.running(JobKind.TRAIN)) >= self._settings.max_running_trainings:
                    return
            self._ray.check()
            with self._catalog.transaction() as tx:
                job = tx.leases.claim(
                    [JobKind.TRAIN], owner=self._owner, lease_seconds=self._settings.train_start_seconds
                )
            if job is None:
                return
            with self._logging_about(job):
                self._own_running.add(job.id)
                if job.fence > 1:
                    # The earlier attempt lost its lease and cannot write; ending it frees its CPUs and GPUs.
                    self._ray.stop(submission_id(job.id, job.fence - 1))
                self._submit(job)

    def _submit(self, job: Job) -> None:
        passed, inherited = job_environment(self._settings)
        command = [
            sys.executable,
            "-m",
            "phema.services.trainer.control.driver",
            "--job",
            job.id,
            "--fence",
            str(job.fence),
        ]
        if inherited:
            command += ["--inherits", ",".join(inherited)]
        self._ray.submit(
            submission_id(job.id, job.fence),
            f"exec {shlex.join(command)}",
            env=passed,
            metadata={name: str(value) for name, value in job.ids.items() if value is not None},
        )
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="submitted")
        _log.info("submitted")

    def _watch(self, job: Job) -> None:
        # A claim clears the job's message, and the driver's first heartbeat writes one.
        driver_started = job.message is not None
        known = self._ray.get(submission_id(job.id, job.fence))
        if known is not None and known.ended:
            self._end_lost(job, known)
        elif known is None and not driver_started and not job.cancel_requested:
            self._submit(job)  # the trainer that claimed the job died before submitting it
        elif known is None and not driver_started:
            self._cancel_unsubmitted(job)
        elif known is not None and job.cancel_requested:
            self._end_if_cancel_stalls(job, driver_started=driver_started)
        # A started driver that Ray does not know died with Ray's former head; its lease will expire.

    def _end_if_cancel_stalls(self, job: Job, *, driver_started: bool) -> None:
        """End a cancelled training whose driver has not started, or whose message has not changed for the grace period.

        The first worker sees the cancel itself and updates the message while the run is stopping.
        """
        message, since = self._cancel_messages.get(job.id, (None, 0.0))
        if message != job.message:
            message, since = self._cancel_messages[job.id] = job.message, time.monotonic()
        if not driver_started or time.monotonic() - since >= self._cancel_grace_s:
            _log.info("ending a cancelled training")
            self._ray.stop(submission_id(job.id, job.fence))

    def _end_lost(self, job: Job, known: RayJob) -> None:
        """The driver has ended without writing a terminal state: retry at once, or mark the job cancelled."""
        error = f"Attempt {job.fence} ended without a result ({known.status.lower()}): {known.reason}"
        try:
            with self._catalog.transaction() as tx:
                held = tx.leases.assert_fence(job.id, job.fence)
                if held.cancel_requested:
                    tx.leases.cancelled(job.id, job.fence)
                    state = JobState.CANCELLED
                else:
                    state = tx.leases.fail(job.id, job.fence, error, retry=True)
        except LeaseLost:
            return  # the driver had written a terminal state just before it ended
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="cancelled" if state is JobState.CANCELLED else "lost")
        _log.warning("%s; the job is %s", error, state)

    def _cancel_unsubmitted(self, job: Job) -> None:
        with self._catalog.transaction() as tx:
            tx.leases.cancelled(job.id, job.fence)
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="cancelled")
        _log.info("cancelled before it was submitted")

    def _end_expired(self, job: Job) -> None:
        """Ask Ray to end a driver whose lease expired. If it survives, it ends itself at its next heartbeat."""
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="expired")
        with log_fields(**job.ids):
            _log.warning("the driver stopped sending heartbeats; the job is %s", job.state)
            try:
                self._ray.stop(submission_id(job.id, job.fence))
            except RayUnavailable as error:
                _log.warning("the driver could not be ended: %s", error)

    def _measure(self, running: list[Job]) -> None:
        self._meters.set(metrics.TRAININGS_RUNNING, len(running))
        now = {job.id for job in running}
        self._cancel_messages = {job_id: seen for job_id, seen in self._cancel_messages.items() if job_id in now}
        for job_id in self._own_running - now:
            with self._catalog.transaction(read_only=True) as tx:
                job = tx.jobs.get(job_id)
            if job.started_at is not None and job.finished_at is not None:
                seconds = job.finished_at - job.started_at
                self._meters.observe(metrics.JOB_SECONDS, seconds, kind=job.kind.value, state=job.state.value)
        self._own_running = {job.id for job in running if job.lease_owner == self._owner}
