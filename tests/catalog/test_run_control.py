"""Pausing, resuming and extending runs, and the events that every change of a run's state leaves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from phema.shared.catalog import AttemptOutcome, Catalog, EventKind, Job, JobKind, JobState, Run, RunState, WrongState
from tests.catalog.conftest import Clockwork, ask, claim, held

LONGER = {"config": {"preset": "digits", "seed": 0, "total_images": 2000}, "config_hash": "longer"}


def get(catalog: Catalog, run_id: str) -> Run:
    with catalog.transaction(read_only=True) as tx:
        return tx.runs.get(run_id)


def pause(catalog: Catalog, run_id: str) -> Run:
    with catalog.transaction() as tx:
        return tx.run_control.pause(run_id)


def resume(catalog: Catalog, run_id: str) -> Run:
    with catalog.transaction() as tx:
        return tx.run_control.resume(run_id)


def extend(catalog: Catalog, run_id: str, total_images: int = 2000) -> Run:
    with catalog.transaction() as tx:
        return tx.run_control.extend(run_id, total_images=total_images, **LONGER)  # type: ignore[arg-type]


def happened(catalog: Catalog, run_id: str) -> list[str]:
    with catalog.transaction(read_only=True) as tx:
        return [event.kind.value for event in tx.run_events.list(run_id).items]


def outcomes(catalog: Catalog, job: Job) -> list[AttemptOutcome | None]:
    with catalog.transaction(read_only=True) as tx:
        return [attempt.outcome for attempt in tx.jobs.attempts(job.id)]


def begin(catalog: Catalog) -> Job:
    """Claim the run, whose workers then train."""
    job = held(catalog)
    with catalog.transaction() as tx:
        tx.leases.begin_work(job.id, job.fence)
        tx.leases.begin_work(job.id, job.fence)
    return job


def succeed(catalog: Catalog, run_id: str) -> None:
    """Train the run to its end, with a checkpoint there."""
    job = begin(catalog)
    with catalog.transaction() as tx:
        tx.checkpoints.add(run_id=run_id, num_images=1000, key=f"runs/{run_id}/c.pt", size=1, sha256="0" * 64)
        tx.runs.set_progress(run_id, 1000)
        tx.leases.succeed(job.id, job.fence)


class TestStates:
    def test_a_run_starts_and_then_runs(self, catalog: Catalog, run_id: str) -> None:
        assert get(catalog, run_id).run_state is RunState.QUEUED
        job = held(catalog)
        assert get(catalog, run_id).run_state is RunState.STARTING
        with catalog.transaction() as tx:
            tx.leases.begin_work(job.id, job.fence)
        assert get(catalog, run_id).run_state is RunState.RUNNING
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "It broke.", retry=True)
        assert get(catalog, run_id).run_state is RunState.QUEUED
        assert not get(catalog, run_id).job.working
        assert happened(catalog, run_id) == ["created", "starting", "running", "queued"]

    def test_lists_know_both_states(self, catalog: Catalog, run_id: str) -> None:
        def listed(state: RunState) -> list[str]:
            with catalog.transaction(read_only=True) as tx:
                return [run.name for run in tx.runs.list(state=state).items]

        with catalog.transaction() as tx:
            tx.external_runs.open("mine", origin="external", config={}, total_images=None)
        job = held(catalog)
        assert (listed(RunState.STARTING), listed(RunState.RUNNING)) == (["digits"], ["mine"])
        with catalog.transaction() as tx:
            tx.leases.begin_work(job.id, job.fence)
        assert (listed(RunState.STARTING), listed(RunState.RUNNING)) == ([], ["mine", "digits"])
        with catalog.transaction() as tx:
            tx.run_control.pause(run_id)
            tx.leases.stopped(job.id, job.fence)
        assert (listed(RunState.PAUSED), listed(RunState.RUNNING)) == (["digits"], ["mine"])

    def test_events_of_a_run_of_another_loop(self, catalog: Catalog) -> None:
        with catalog.transaction() as tx:
            run, _ = tx.external_runs.open("mine", origin="external", config={}, total_images=None)
            tx.external_runs.finish(run.id)
            tx.external_runs.finish(run.id)
            tx.external_runs.reopen(run.id)
            tx.jobs.request_cancel(tx.runs.get(run.id).job_id)
        assert happened(catalog, run.id) == ["created", "succeeded", "resumed", "cancelled"]

    def test_jobs_of_other_kinds_leave_no_events(self, catalog: Catalog, run_id: str) -> None:
        job = ask(catalog)
        assert claim(catalog, JobKind.RECONSTRUCT) is not None
        with catalog.transaction() as tx:
            tx.leases.succeed(job.id, 1)
            assert sum(tx.run_events.counts().counts.values()) == 1, "the creation of the run"

    def test_a_failure_says_why(self, catalog: Catalog, run_id: str) -> None:
        job = held(catalog)
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
            last = tx.run_events.latest(run_id, 1)[0]
        assert (last.kind, last.reason, last.attempt, last.job_id) == (EventKind.FAILED, "It broke.", 1, job.id)

    def test_a_cancel_with_a_reason(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        with catalog.transaction() as tx:
            tx.jobs.request_cancel(job.id, "It no longer improves.")
            tx.jobs.request_cancel(job.id)
            tx.leases.cancelled(job.id, job.fence)
            asked, ended = tx.run_events.latest(run_id, 2)
        assert (asked.kind, asked.reason) == (EventKind.CANCEL_REQUESTED, "It no longer improves.")
        assert (ended.kind, ended.reason) == (EventKind.CANCELLED, "It no longer improves.")

    def test_pages_and_counts(self, catalog: Catalog, run_id: str) -> None:
        begin(catalog)
        with catalog.transaction(read_only=True) as tx:
            first = tx.run_events.list(run_id, limit=2)
            rest = tx.run_events.list(run_id, after=first.next_cursor, limit=2)
            counted = tx.run_events.counts()
            again = tx.run_events.counts(counted.settled)
        assert [event.kind for event in (*first.items, *rest.items)] == ["created", "starting", "running"]
        assert rest.next_cursor is None
        assert counted.counts == again.counts == {"created": 1, "starting": 1, "running": 1}

    def test_old_events_are_counted_once(self, catalog: Catalog, run_id: str, clockwork: Clockwork) -> None:
        clockwork._execute("UPDATE run_events SET created_at = created_at - 10000")
        with catalog.transaction(read_only=True) as tx:
            settled = tx.run_events.counts().settled
        assert settled is not None
        assert settled.counts == {"created": 1}
        pause(catalog, run_id)
        with catalog.transaction(read_only=True) as tx:
            assert tx.run_events.counts(settled).counts == {"created": 1, "paused": 1}


class TestPause:
    def test_a_queued_run(self, catalog: Catalog, run_id: str) -> None:
        paused = pause(catalog, run_id)
        assert paused.run_state is RunState.PAUSED
        assert not paused.job.state.terminal
        assert claim(catalog) is None
        assert pause(catalog, run_id).run_state is RunState.PAUSED, "asked twice"
        resumed = resume(catalog, run_id)
        assert (resumed.run_state, resumed.job_id) == (RunState.QUEUED, paused.job_id)
        assert held(catalog).id == paused.job_id
        assert happened(catalog, run_id) == ["created", "paused", "resumed", "starting"]

    def test_a_running_run_stops_and_goes_on_with_the_same_job(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        assert pause(catalog, run_id).run_state is RunState.RUNNING
        assert pause(catalog, run_id).job.pause_requested
        with catalog.transaction() as tx:
            assert tx.leases.heartbeat(job.id, job.fence, lease_seconds=60), "the holder should stop"
            stopped = tx.leases.stopped(job.id, job.fence)
        assert (stopped.state, stopped.attempts, stopped.pause_requested) == (JobState.PAUSED, 0, False)
        assert stopped.finished_at is None
        assert outcomes(catalog, job) == [AttemptOutcome.PAUSED]
        resume(catalog, run_id)
        assert held(catalog).fence == 2
        assert happened(catalog, run_id) == [
            *("created", "starting", "running", "pause_requested", "paused"),
            *("resumed", "starting"),
        ]

    @pytest.mark.parametrize("end", ["expired", "failed", "released"])
    def test_an_attempt_that_ends_by_itself_meanwhile(
        self, end: str, catalog: Catalog, run_id: str, clockwork: Clockwork
    ) -> None:
        """Its process died, met an error or shut down, before it saw the request: the run is paused, not queued."""
        with catalog.transaction() as tx:
            job = tx.leases.claim([JobKind.TRAIN], owner="worker", lease_seconds=60)
        assert job is not None
        pause(catalog, run_id)
        if end == "expired":
            clockwork.run_out(job.id)
        with catalog.transaction() as tx:
            if end == "expired":
                assert [j.state for j in tx.leases.expire()] == [JobState.PAUSED]
            elif end == "failed":
                assert tx.leases.fail(job.id, job.fence, "It broke.", retry=True) is JobState.PAUSED
            else:
                tx.leases.release(job.id, job.fence, "no room")
        assert get(catalog, run_id).run_state is RunState.PAUSED
        assert outcomes(catalog, job) == [AttemptOutcome(end)]
        assert claim(catalog) is None

    def test_an_error_that_no_retry_helps_fails_the_run(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        pause(catalog, run_id)
        with catalog.transaction() as tx:
            assert tx.leases.fail(job.id, job.fence, "The data changed.", retry=False) is JobState.FAILED

    def test_a_pause_is_withdrawn(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        pause(catalog, run_id)
        withdrawn = resume(catalog, run_id)
        assert (withdrawn.run_state, withdrawn.job.pause_requested) == (RunState.RUNNING, False)
        assert withdrawn.job.pause_withdrawn
        with catalog.transaction() as tx:
            stopped = tx.leases.stopped(job.id, job.fence)
            assert (stopped.state, stopped.attempts) == (JobState.QUEUED, 0), "its workers had seen the request"
        assert not held(catalog).pause_withdrawn, "of the attempt before"

    def test_a_paused_run_is_cancelled_at_once(self, catalog: Catalog, run_id: str) -> None:
        pause(catalog, run_id)
        with catalog.transaction() as tx:
            tx.jobs.request_cancel(tx.runs.get(run_id).job_id)
        assert get(catalog, run_id).run_state is RunState.CANCELLED
        assert happened(catalog, run_id) == ["created", "paused", "cancelled"]

    def test_a_cancel_wins_over_a_pause(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        pause(catalog, run_id)
        with catalog.transaction() as tx:
            tx.jobs.request_cancel(job.id)
        with pytest.raises(WrongState, match="run digits is being cancelled; only a queued, starting or running run"):
            pause(catalog, run_id)
        with catalog.transaction() as tx:
            assert tx.leases.stopped(job.id, job.fence).state is JobState.CANCELLED

    def test_an_ended_run_cannot_be_paused(self, catalog: Catalog, run_id: str) -> None:
        succeed(catalog, run_id)
        with pytest.raises(WrongState, match="run digits is succeeded; only a queued, starting or running run can be"):
            pause(catalog, run_id)


class TestExtend:
    def test_a_succeeded_run_gets_another_job(self, catalog: Catalog, run_id: str) -> None:
        succeed(catalog, run_id)
        first = get(catalog, run_id).job_id
        run = extend(catalog, run_id)
        assert (run.run_state, run.total_images, run.num_images) == (RunState.QUEUED, 2000, 1000)
        assert (run.config, run.config_hash) == (LONGER["config"], "longer")
        assert run.job_id != first
        with catalog.transaction() as tx:
            assert tx.jobs.get(first).state is JobState.SUCCEEDED
            extended = tx.run_events.list(run_id).items[-2]
            assert tx.run_events.earlier_lengths(run_id) == [1000]
        assert (extended.kind, extended.details) == (
            EventKind.EXTENDED,
            {"total_images": [1000, 2000], "config_hash": ["hash", "longer"]},
        )
        job = held(catalog)
        assert job.id == run.job_id
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
        assert resume(catalog, run_id).job_id not in (first, run.job_id)

    @pytest.mark.parametrize("state", [RunState.QUEUED, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED])
    def test_others_only_get_the_length(self, catalog: Catalog, run_id: str, state: RunState) -> None:
        with catalog.transaction() as tx:
            if state is RunState.PAUSED:
                tx.run_control.pause(run_id)
            elif state is RunState.CANCELLED:
                tx.jobs.request_cancel(tx.runs.get(run_id).job_id)
            elif state is RunState.FAILED:
                job = tx.leases.claim([JobKind.TRAIN], owner="worker", lease_seconds=60)
                assert job is not None
                tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
        before = get(catalog, run_id)
        run = extend(catalog, run_id)
        assert (run.run_state, run.job_id, run.total_images) == (state, before.job_id, 2000)

    def test_a_running_run_is_refused(self, catalog: Catalog, run_id: str) -> None:
        held(catalog)
        with pytest.raises(WrongState, match="run digits is running; pause it, extend it, then resume it"):
            extend(catalog, run_id)

    def test_a_run_without_a_checkpoint_at_its_end_is_refused(self, catalog: Catalog, run_id: str) -> None:
        job = begin(catalog)
        with catalog.transaction() as tx:
            tx.runs.set_progress(run_id, 1000)
            tx.leases.succeed(job.id, job.fence)
        with pytest.raises(WrongState, match="run digits has no checkpoint at its end, 1000 images"):
            extend(catalog, run_id)

    def test_asked_at_once_with_resumes_and_claims(self, catalog: Catalog, run_id: str) -> None:
        succeed(catalog, run_id)
        start = threading.Barrier(6)

        def act(number: int) -> None:
            start.wait()
            try:
                if number % 3 == 0:
                    extend(catalog, run_id, 2000 + number)
                elif number % 3 == 1:
                    resume(catalog, run_id)
                else:
                    claim(catalog)
            except WrongState:
                pass  # the job was claimed first

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(act, range(6)))
        with catalog.transaction() as tx:
            jobs = tx.jobs.list(run_id=run_id).items
            assert len(jobs) == 2
            assert tx.runs.get(run_id).job_id == jobs[0].id
