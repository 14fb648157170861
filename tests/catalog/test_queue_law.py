"""Law 2 with random events in random order: each accepted job reaches exactly one terminal state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from phema.shared.catalog import Catalog, Job, JobKind, JobState, LeaseLost
from tests.catalog.conftest import Clockwork

KEYS = st.sampled_from(["a", "b", "c"])
LIVE = (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)


@dataclass
class Expected:
    """The expected state of a job."""

    id: str
    key: str
    max_attempts: int
    state: JobState = JobState.QUEUED
    fence: int = 0
    attempts: int = 0
    paused: bool = False
    silent: bool = False
    cancel_requested: bool = False
    last: dict[str, Any] = field(default_factory=dict)
    """Every column, once the job has ended."""


class QueueMachine(RuleBasedStateMachine):
    """The queue, next to a model of it in a few lines of Python."""

    def __init__(self, catalog: Catalog, clockwork: Clockwork) -> None:
        super().__init__()
        self.catalog, self.clockwork = catalog, clockwork
        with catalog._engine.begin() as connection:
            connection.execute(text("DELETE FROM attempts"))
            connection.execute(text("DELETE FROM jobs"))
        self.jobs: list[Expected] = []
        self.claims: list[tuple[Expected, int]] = []
        """Every claim ever made with its fence, so that late workers can use it."""

    @rule(key=KEYS, max_attempts=st.integers(1, 3))
    def enqueue(self, key: str, max_attempts: int) -> None:
        live = [job for job in self.jobs if job.key == key and job.state in LIVE]
        with self.catalog.transaction() as tx:
            job, created = tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key=key, max_attempts=max_attempts)
        assert created == (not live)
        if created:
            self.jobs.append(Expected(job.id, key, max_attempts))
        else:
            assert [job.id] == [one.id for one in live]
            live[0].cancel_requested = False  # somebody wants the job after all

    @rule()
    def claim(self) -> None:
        due = [job for job in self.jobs if job.state is JobState.QUEUED and not job.paused]
        with self.catalog.transaction() as tx:
            job = tx.leases.claim([JobKind.EVALUATE], owner="worker", lease_seconds=3600)
        if not due:
            assert job is None
            return
        expected = due[0]
        expected.state, expected.silent = JobState.RUNNING, False
        expected.fence += 1
        expected.attempts += 1
        assert job is not None
        assert (job.id, job.fence) == (expected.id, expected.fence)
        self.claims.append((expected, expected.fence))

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        move=st.sampled_from(["heartbeat", "progress", "succeed", "fail", "retry", "cancelled", "release"]),
    )
    def act(self, data: st.DataObject, move: str) -> None:
        """A worker that holds or held a job acts on it, possibly too late."""
        job, fence = data.draw(st.sampled_from(self.claims))
        try:
            with self.catalog.transaction() as tx:
                if move == "heartbeat":
                    stop = tx.leases.heartbeat(job.id, fence, lease_seconds=3600)
                    assert stop == job.cancel_requested
                elif move == "progress":
                    tx.leases.made_progress(job.id, fence)
                elif move == "succeed":
                    tx.leases.succeed(job.id, fence)
                elif move == "cancelled":
                    tx.leases.cancelled(job.id, fence)
                elif move == "release":
                    tx.leases.release(job.id, fence)
                else:
                    tx.leases.fail(job.id, fence, "It broke.", retry=move == "retry")
        except LeaseLost:
            assert (job.state, job.fence) != (JobState.RUNNING, fence)
            return
        assert (job.state, job.fence) == (JobState.RUNNING, fence)
        self.expect(job, move)

    def expect(self, job: Expected, move: str) -> None:
        if move == "heartbeat":
            job.silent = False
        elif move == "progress":
            job.attempts = 0
        elif move in ("succeed", "fail", "cancelled"):
            ends = {"succeed": JobState.SUCCEEDED, "fail": JobState.FAILED, "cancelled": JobState.CANCELLED}
            job.state = ends[move]
        elif job.cancel_requested:
            job.state = JobState.CANCELLED
        elif move == "release":
            job.state, job.attempts = JobState.QUEUED, max(job.attempts - 1, 0)
        elif job.attempts >= job.max_attempts:
            job.state = JobState.FAILED
        else:
            job.state, job.paused = JobState.QUEUED, True

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def request_cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        with self.catalog.transaction() as tx:
            tx.jobs.request_cancel(job.id)
        if job.state is JobState.QUEUED:
            job.state = JobState.CANCELLED
        elif job.state is JobState.RUNNING:
            job.cancel_requested = True

    @precondition(lambda self: any(job.state is JobState.RUNNING for job in self.jobs))
    @rule(data=st.data())
    def fall_silent(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.state is JobState.RUNNING]))
        self.clockwork.run_out(job.id)
        job.silent = True

    @rule()
    def expire(self) -> None:
        with self.catalog.transaction() as tx:
            expired = tx.leases.expire()
        silent = [job for job in self.jobs if job.state is JobState.RUNNING and job.silent]
        assert [job.id for job in expired] == [job.id for job in silent]
        for job in silent:
            if job.cancel_requested:
                job.state = JobState.CANCELLED
            elif job.attempts >= job.max_attempts:
                job.state = JobState.FAILED
            else:
                job.state, job.paused = JobState.QUEUED, False

    @rule()
    def wait(self) -> None:
        self.clockwork.pass_pauses()
        for job in self.jobs:
            job.paused = False

    @invariant()
    def the_queue_is_as_expected_and_what_has_ended_never_changes(self) -> None:
        with self.catalog.transaction(read_only=True) as tx:
            rows = {row.id: row for row in tx.jobs.list(limit=10_000).items}
            histories = {job.id: tx.jobs.attempts(job.id) for job in self.jobs}
        assert set(rows) == {job.id for job in self.jobs}
        for job in self.jobs:
            row = rows[job.id]
            assert (row.state, row.fence, row.attempts) == (job.state, job.fence, job.attempts)
            assert [attempt.number for attempt in histories[job.id]] == list(range(1, job.fence + 1))
            running = [attempt.number for attempt in histories[job.id] if attempt.outcome is None]
            assert running == ([job.fence] if job.state is JobState.RUNNING else [])
            assert (row.lease_owner is not None) == (job.state is JobState.RUNNING)
            assert (row.finished_at is not None) == job.state.terminal
            if job.state.terminal:
                # Pauses are aged by the tests themselves.
                columns = {c.key: getattr(row, c.key) for c in Job.__table__.columns if c.key != "not_before"}
                assert job.last in ({}, columns)
                job.last = columns

    def teardown(self) -> None:
        """Whatever happened before, workers that continue bring every job to its end."""
        for _ in range(4 * len(self.jobs) + 1):
            self.wait()
            for job in self.jobs:
                if job.state is JobState.RUNNING:
                    self.clockwork.run_out(job.id)
                    job.silent = True
            self.expire()
            self.claim()
        assert all(job.state.terminal for job in self.jobs)
        self.the_queue_is_as_expected_and_what_has_ended_never_changes()


def test_every_job_reaches_exactly_one_terminal_state(catalog: Catalog, clockwork: Clockwork, database: str) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(catalog, clockwork),
        settings=settings(
            max_examples=40 if database == "sqlite" else 15,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
