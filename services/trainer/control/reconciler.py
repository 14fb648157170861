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
from contextlib import contextmanager, suppress

from pydantic import ValidationError

from phema.services.trainer.control.attempt_follower import AttemptFollower
from phema.services.trainer.control.end_drivers import DRIVER
from phema.services.trainer.control.failure_causes import cause_of_lost_driver
from phema.services.trainer.control.job_environment import job_environment
from phema.services.trainer.control.ray_jobs import RayJob, RayJobs, RayUnavailable
from phema.services.trainer.control.worker_resources import (
    WAITING,
    CannotTrain,
    Placement,
    TooFewResources,
    no_room,
    place_workers,
)
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, submission_id
from phema.shared.recipes.run_config import RunConfig
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from phema.shared.service_runtime.work_waker import WorkWaker
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields, metrics

CANCEL_GRACE_SECONDS = 30.0
"""A training that should stop is ended if the job's message has not changed for so long; one that stops updates it."""
POSTPONE_SECONDS = 5.0
"""A job whose run needs more than the whole cluster has stays in the queue for so long before it is looked at again."""
USUAL_START_SECONDS = 5.0
"""A submitted job that Ray has not started after this time is reported as waiting for resources."""
CLEAN_UP_SECONDS = 3600.0
"""Seconds between two deletions of old idempotency records."""
SILENCE_SECONDS = 60.0
"""Seconds between two looks for external runs that have fallen silent."""
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
        follower: AttemptFollower | None = None,
        cancel_grace_s: float = CANCEL_GRACE_SECONDS,
    ) -> None:
        self._settings, self._catalog, self._ray, self._meters = settings, catalog, ray_jobs, meters
        self._owner, self._cancel_grace_s = owner, cancel_grace_s
        self._expiry = LeaseExpiry(catalog, [JobKind.TRAIN], lease_s=settings.lease_seconds)
        self._follower = follower
        self._adopted = False
        self._own_running: set[str] = set()
        """Ids of the running jobs whose lease this trainer owns."""
        self._cancel_messages: dict[str, tuple[str | None, float]] = {}
        """The latest message of each job that should stop, and the monotonic time at which it was first seen."""
        self._pending: dict[str, tuple[float, float]] = {}
        """Of each job that Ray has not started: the monotonic times when that was first seen, and last reported."""
        self._warned: tuple[set[str], set[str]] = (set(), set())
        """The warnings of the last round and those of this one."""
        self._cleaned_up_at = self._silence_looked_at = -math.inf
        for outcome in ("submitted", "lost", "expired", "cancelled", "paused"):
            meters.begin(metrics.TRAINING_ATTEMPTS, outcome=outcome)
        for state in filter(lambda state: state.terminal, JobState):
            meters.begin(metrics.JOB_SECONDS, kind=JobKind.TRAIN.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Reconcile until `stopping` is set. Running trainings continue after that.

        While something runs, every `poll_seconds`; otherwise when a job is due, and from time to time.
        """
        with self._in_touch(), WorkWaker(self._catalog, self._settings.poll_seconds) as waker:
            while not stopping.is_set():
                rings, pause_s = waker.rings, self._settings.poll_seconds
                try:
                    self.reconcile()
                    if not self._own_running:
                        pause_s = self._idle_s(waker)
                except (CatalogUnreachable, RayUnavailable) as error:
                    self._warn_once(error)
                    self._cancel_messages.clear()  # messages may have changed unseen meanwhile
                waker.wait(rings, stopping, pause_s)

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        """Look at the leases from another thread: a round lasts long while Ray does not answer, which is no outage of
        the catalog."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(self._settings.lease_seconds / 4):
                with suppress(CatalogUnreachable):  # the gap between two looks shows it
                    self._expiry.look()

        thread = threading.Thread(target=look, name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _idle_s(self, waker: WorkWaker) -> float:
        """Seconds until the next round while no training of this trainer runs. Leases are watched all the time."""
        with self._catalog.transaction(read_only=True) as tx:
            due_s = tx.leases.seconds_until_due([JobKind.TRAIN])
        longest = min(waker.pause_s, self._settings.lease_seconds / 4)
        # Due and not claimed: as many trainings run as may.
        return longest if due_s is None else min(longest, max(due_s, self._settings.poll_seconds))

    def reconcile(self) -> None:
        """One round. Raises CatalogUnreachable and RayUnavailable; the next round continues with the rest.

        The first round takes over the leases of the trainings that are running. The owner of a lease counts the job's
        end in the metrics, so of several trainers exactly one does.
        """
        self._warned = (self._warned[1], set())
        if not self._adopted:
            with self._catalog.transaction() as tx:
                tx.leases.adopt([JobKind.TRAIN], owner=self._owner)
            self._adopted = True
        with self._catalog.transaction(read_only=True) as tx:
            running = tx.jobs.running(JobKind.TRAIN)
        ended_with_ray = {job.id for job in running if not self._watch(job)}
        self._expire(ended_with_ray)
        self._measure(running)
        self._clean_up()
        self._note_silent()
        self._claim()
        if self._follower is not None:
            self._follower.watch(running)

    @contextmanager
    def _continuing(self, job: Job) -> Iterator[None]:
        """Adds the job's log fields to every line in the block, and logs errors that concern this job alone.

        Other jobs must not wait for it: the next round tries again. LeaseLost means that another trainer was faster.
        """
        with log_fields(**job.ids):
            try:
                yield
            except RayUnavailable as error:
                self._warn_once(error)
            except LeaseLost as error:
                _log.info("%s", error)

    def _warn_once(self, error: CatalogUnreachable | RayUnavailable) -> None:
        """Log the error unless this round or the last one has."""
        if str(error) not in self._warned[0] | self._warned[1]:
            _log.warning("%s", error)
        self._warned[1].add(str(error))

    def _clean_up(self) -> None:
        """Delete old idempotency records, hourly. Several trainers may do so at once."""
        if time.monotonic() - self._cleaned_up_at < CLEAN_UP_SECONDS:
            return
        with self._catalog.transaction() as tx:
            tx.idempotency.forget_old()
        self._cleaned_up_at = time.monotonic()

    def _note_silent(self) -> None:
        """Record which external runs have fallen silent. Several trainers may do so at once."""
        if time.monotonic() - self._silence_looked_at < SILENCE_SECONDS:
            return
        with self._catalog.transaction() as tx:
            silent = tx.external_runs.note_silent(at_least_s=self._settings.silent_after_seconds)
        self._silence_looked_at = time.monotonic()
        for run in silent:
            _log.warning("the writer of the external run %s has fallen silent", run.name, extra={"run_id": run.id})

    def _claim(self) -> None:
        """Claim and submit jobs up to `max_running_trainings`. Claims nothing while Ray is unavailable."""
        while True:
            with self._catalog.transaction(read_only=True) as tx:
                if len(tx.jobs.running(JobKind.TRAIN)) >= self._settings.max_running_trainings:
                    return
            self._ray.check()
            with self._catalog.transaction(read_only=True) as tx:
                due = tx.leases.next_due([JobKind.TRAIN])
            if due is None:
                return
            try:
                placement = self._place(due)
            except TooFewResources as error:
                # Not claimed, because a wait is no attempt. Other jobs may fit.
                with self._catalog.transaction() as tx:
                    tx.leases.postpone(due.id, f"{WAITING}{error}", POSTPONE_SECONDS)
                continue
            with self._catalog.transaction() as tx:
                job = tx.leases.claim(
                    [JobKind.TRAIN],
                    owner=self._owner,
                    lease_seconds=self._settings.train_start_seconds,
                    job_id=due.id,
                )
            if job is None:
                return  # another trainer was faster
            with self._continuing(job):
                self._own_running.add(job.id)
                if job.fence > 1:
                    # The earlier attempt lost its lease and cannot write; ending it frees its CPUs and GPUs.
                    self._ray.stop(submission_id(job.id, job.fence - 1))
                self._submit(job, placement)

    def _place(self, job: Job) -> Placement | None:
        """The resources that the job's workers need; None if no cluster can train the run, as its driver will say.

        Raises TooFewResources and RayUnavailable.
        """
        with self._catalog.transaction(read_only=True) as tx:
            run = tx.runs.get(job.payload["run_id"])
        try:
            config = RunConfig.model_validate(run.config)
            return place_workers(config, self._settings, self._ray.cluster_resources())
        except (ValidationError, CannotTrain):
            return None

    def _submit(self, job: Job, placement: Placement | None) -> None:
        passed, inherited = job_environment(self._settings)
        command = [
            sys.executable,
            "-m",
            DRIVER,
            "--job",
            job.id,
            "--fence",
            str(job.fence),
        ]
        if inherited:
            command += ["--inherits", ",".join(inherited)]
        in_driver = placement is not None and placement.num_workers == 1
        if placement is not None and in_driver:
            command += ["--device", placement.device]
        self._ray.submit(
            submission_id(job.id, job.fence),
            f"exec {shlex.join(command)}",
            env=passed,
            metadata={name: str(value) for name, value in job.ids.items() if value is not None},
            resources=placement.resources if placement is not None and in_driver else None,
        )
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome="submitted")
        _log.info("submitted")

    def _watch(self, job: Job) -> bool:
        """Bring an attempt in line with its Ray job. False if Ray has forgotten its driver, or does not answer."""
        remembered = False
        with self._continuing(job):
            name = submission_id(job.id, job.fence)
            known = self._ray.get(name)
            remembered = known is not None or not _driver_started(job)
            if known is None:
                self._watch_unknown(job)
            elif known.found_no_room:
                self._give_back(job, "Ray has found no room on the cluster")
            elif known.ended:
                self._end_lost(job, known)
            elif known.pending and not _driver_started(job) and _should_stop(job):
                # Ray ends a pending job only once it has room for it. Its driver will have lost the lease by then.
                self._ray.stop(name)
                self._stop_unsubmitted(job)
            elif known.pending and not _driver_started(job):
                self._wait_for_start(job)
            elif _should_stop(job):
                self._end_if_stop_stalls(job)
        return remembered

    def _watch_unknown(self, job: Job) -> None:
        """The trainer that claimed the job died before submitting it, or Ray's head was restarted.

        A started driver died with Ray's former head; its lease will expire.
        """
        if _driver_started(job):
            return
        if _should_stop(job):
            self._stop_unsubmitted(job)
            return
        try:
            placement = self._place(job)
        except TooFewResources as error:
            self._give_back(job, str(error))
            return
        self._submit(job, placement)
        self._extend_start(job)

    def _extend_start(self, job: Job, message: str | None = None) -> None:
        """Give the driver `train_start_seconds` from now."""
        with self._catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=self._settings.train_start_seconds, message=message)

    def _wait_for_start(self, job: Job) -> None:
        """Keep the lease of a job that Ray has not started yet, and say what it waits for."""
        now = time.monotonic()
        began, told = self._pending.get(job.id, (now, now))
        if now - began < USUAL_START_SECONDS or now - told < self._settings.heartbeat_seconds:
            self._pending[job.id] = began, told
            return
        try:
            placement = self._place(job)
            what = "Ray starts the driver" if placement is None else no_room(placement)
        except TooFewResources as error:
            what = str(error)
        self._extend_start(job, f"{WAITING}{what}")
        self._pending[job.id] = began, now

    def _give_back(self, job: Job, why: str) -> None:
        """Queue a claimed job again that waits for resources. It is no attempt."""
        with self._catalog.transaction() as tx:
            tx.leases.release(job.id, job.fence, f"{WAITING}{why}")
        _log.info("back in the queue: %s", why)

    def _end_if_stop_stalls(self, job: Job) -> None:
        """End a training that should stop and has not started, or whose message has not changed for the grace period.

        The first worker sees the request itself and updates the message while the run is stopping.
        """
        message, since = self._cancel_messages.get(job.id, (None, 0.0))
        if message != job.message:
            message, since = self._cancel_messages[job.id] = job.message, time.monotonic()
        if not _driver_started(job) or time.monotonic() - since >= self._cancel_grace_s:
            _log.info("ending a training that should stop")
            self._ray.stop(submission_id(job.id, job.fence))

    def _end_lost(self, job: Job, known: RayJob) -> None:
        """The driver has ended without writing the job's next state: retry at once, or mark it cancelled or paused."""
        error = f"Attempt {job.fence} ended without a result ({known.status.lower()}): {known.reason}"
        with self._catalog.transaction() as tx:
            # Raises LeaseLost if the driver had written a terminal state just before it ended.
            held = tx.leases.assert_fence(job.id, job.fence)
            if _should_stop(held):
                state = tx.leases.stopped(job.id, job.fence).state
            else:
                state = tx.leases.fail(job.id, job.fence, error, retry=True, cause=cause_of_lost_driver(known))
        self._meters.add(metrics.TRAINING_ATTEMPTS, outcome=_STOPPED.get(state, "lost"))
        _log.warning("%s; the job is %s", error, state)

    def _stop_unsubmitted(self, job: Job) -> None:
        with self._catalog.transaction() as tx:
            state = tx.leases.stopped(job.id, job.fence).state
        if state in _STOPPED:
            self._meters.add(metrics.TRAINING_ATTEMPTS, outcome=_STOPPED[state])
        _log.info("stopped before it had started; the job is %s", state)

    def _expire(self, ended_with_ray: set[str]) -> None:
        """Queue or end the jobs whose lease ran out.

        An attempt does not count if its driver ended with Ray, as when the user stops the service or the head's machine
        restarts: the run is not the cause.
        """
        for job in self._expiry.expire(reason=self._why_expired, uncounted=ended_with_ray):
            self._end_expired(job)

    def _why_expired(self, job: Job) -> str:
        if _driver_started(job):
            return f"Attempt {job.fence} sent no heartbeat for {self._settings.lease_seconds:g} s"
        return f"Attempt {job.fence} did not start within {self._settings.train_start_seconds:g} s"

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
        self._pending = {job_id: seen for job_id, seen in self._pending.items() if job_id in now}
        for job_id in self._own_running - now:
            with self._catalog.transaction(read_only=True) as tx:
                job = tx.jobs.get(job_id)
            if job.started_at is not None and job.finished_at is not None:
                seconds = job.finished_at - job.started_at
                self._meters.observe(metrics.JOB_SECONDS, seconds, kind=job.kind.value, state=job.state.value)
        self._own_running = {job.id for job in running if job.lease_owner == self._owner}


_STOPPED = {JobState.CANCELLED: "cancelled", JobState.PAUSED: "paused"}


def _should_stop(job: Job) -> bool:
    return job.cancel_requested or job.pause_requested


def _driver_started(job: Job) -> bool:
    """A claim clears the job's message, the trainer reports waits, and the driver's first heartbeat replaces both."""
    return job.message is not None and not job.message.startswith(WAITING)
