"""Brings what runs on Ray in line with what the catalog says about `train` jobs.

The catalog is the record: the reconciler remembers nothing that a restarted one could not read there, so it may die at
any time and several may run. An attempt is submitted to Ray under an id made of its job and fence, hence once at most.
Ray's word on a job counts in one direction only: what it says has ended, has.
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

from phema.services.trainer.control.job_environment import job_environment
from phema.services.trainer.control.ray_jobs import RayJob, RayJobs, RayUnavailable
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, submission_id
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields, metrics

CANCEL_GRACE_SECONDS = 30.0
"""A cancelled training whose message does not change for so long is ended: one that obeys keeps saying what it does."""
TIDY_SECONDS = 3600.0
"""Between two removals of what the catalog need not keep."""
_log = logging.getLogger(__name__)


class Reconciler:
    """Claims train jobs, submits their attempts, and deals with attempts that end without saying how."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        ray_jobs: RayJobs,
        meters: Meters,
        *,
        owner: str,
        cancel_grace_s: float = CANCEL_GRACE_SECONDS,
    ) -> None:
        self._settings, self._catalog, self._ray, self._meters = settings, catalog, ray_jobs, meters
        self._owner, self._cancel_grace_s = owner, cancel_grace_s
        self._adopted = False
        self._ours_running: set[str] = set()
        self._last_words: dict[str, tuple[str | None, float]] = {}
        self._trouble = ""
        self._tidied = -math.inf
        for outcome in ("submitted", "lost", "expired", "cancelled"):
            meters.begin(metrics.TRAINING_ATTEMPTS, outcome=outcome)
        for state in filter(lambda state: state.terminal, JobState):
            meters.begin(metrics.JOB_SECONDS, kind=JobKind.TRAIN.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Reconcile every `poll_seconds` until told to stop; trainings go on without the reconciler."""
        while not stopping.is_set():
            try:
                self.reconcile()
                self._trouble = ""
            except (CatalogUnreachable, RayUnavailable) as error:
                self._complain(error)
                self._last_words.clear()  # what could not be heard meanwhile was no silence
            stopping.wait(self._settings.poll_seconds)

    def reconcile(self) -> None:
        """One round. Raises CatalogUnreachable and RayUnavailable; the next round does what this one left.

        The first one adopts the trainings of trainers before it: of several, each job's end is counted by one.
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
            with self._about(job):
                self._watch(job)
        self._measure(running)
        self._tidy()
        self._claim()

    @contextmanager
    def _about(self, job: Job) -> Iterator[None]:
        """Lines written within are about the job, and so is what Ray refuses within."""
        with log_fields(**job.ids):
            try:
                yield
            except RayUnavailable as error:
                self._complain(error)
                raise

    def _complain(self, error: CatalogUnreachable | RayUnavailable) -> None:
        if str(error) != self._trouble:  # once, not at every poll
            _log.warning("%s", error)
        self._trouble = str(error)

    def _tidy(self) -> None:
        """Old answers to repeated requests: several trainers may remove them, one is enough."""
        if time.monotonic() - self._tidied < TIDY_SECONDS:
            return
        with self._catalog.transaction() as tx:
            tx.idempotency.forget_old()
        self._tidied = time.monotonic()

    def _claim(self) -> None:
        """Start trainings while there is room. Nothing is claimed while Ray would not take it."""
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
            with self._about(job):
                self._ours_running.add(job.id)
                if job.fence > 1:
                    # Its lease is lost, so it can write nothing; ending it frees what it holds on the cluster.
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
        """A claim empties a job's message and every heartbeat writes one: so it tells whether the driver was heard."""
        heard = job.message is not None
        known = self._ray.get(submission_id(job.id, job.fence))
        if known is not None and known.ended:
            self._end_silent(job, known)
        elif known is None and not heard and not job.cancel_requested:
            self._submit(job)  # the trainer that claimed it died before it could
        elif known is None and not heard:
            self._end_cancelled(job)
        elif known is not None and job.cancel_requested:
            self._press(job, heard=heard)
        # Known to the catalog alone: Ray's head has restarted. The driver died with it; its lease will run out.

    def _press(self, job: Job, *, heard: bool) -> None:
        """The first worker sees the cancel and says so. A driver that has not begun, or falls silent, is ended."""
        word, since = self._last_words.get(job.id, (None, 0.0))
        if word != job.message:
            word, since = self._last_words[job.id] = job.message, time.monotonic()
        if not heard or time.monotonic() - since >= self._cancel_grace_s:
            _log.info("ending a cancelled training")
            self._ray.stop(submission_id(job.id, job.fence))

    def _end_silent(self, job: Job, known: RayJob) -> None:
        """The driver is gone and wrote no terminal row: retry at once, or confirm a cancel."""
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
            return  # it had written its row after all, just before it ended
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="cancelled" if state is JobState.CANCELLED else "lost")
        _log.warning("%s; the job is %s", error, state)

    def _end_cancelled(self, job: Job) -> None:
        with self._catalog.transaction() as tx:
            tx.leases.cancelled(job.id, job.fence)
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="cancelled")
        _log.info("cancelled before it was submitted")

    def _end_expired(self, job: Job) -> None:
        """Best effort: a driver that still lives ends itself at its next heartbeat."""
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="expired")
        with log_fields(**job.ids):
            _log.warning("the driver fell silent; the job is %s", job.state)
            try:
                self._ray.stop(submission_id(job.id, job.fence))
            except RayUnavailable as error:
                _log.warning("the silent driver could not be ended: %s", error)

    def _measure(self, running: list[Job]) -> None:
        self._meters.set(metrics.TRAININGS_RUNNING, len(running))
        now = {job.id for job in running}
        self._last_words = {job_id: word for job_id, word in self._last_words.items() if job_id in now}
        for job_id in self._ours_running - now:
            with self._catalog.transaction(read_only=True) as tx:
                job = tx.jobs.get(job_id)
            if job.started_at is not None and job.finished_at is not None:
                seconds = job.finished_at - job.started_at
                self._meters.observe(metrics.JOB_SECONDS, seconds, kind=job.kind.value, state=job.state.value)
        self._ours_running = {job.id for job in running if job.lease_owner == self._owner}
