"""The life of a job, one event at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from phema.shared.catalog import (
    PRIORITY,
    AttemptOutcome,
    Catalog,
    Job,
    JobKind,
    JobState,
    LeaseLost,
    NotFound,
    retry_delay,
)
from phema.shared.catalog.repositories.queue_stats import RECOUNT_SECONDS, EndedCounts
from tests.catalog.conftest import Clockwork, ask, claim, held

TERMINAL = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]


def get(catalog: Catalog, job_id: str) -> Job:
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(job_id)


def columns(job: Job) -> dict[str, object]:
    return {column.key: getattr(job, column.key) for column in Job.__table__.columns}


def end(catalog: Catalog, job: Job, state: JobState) -> None:
    """Bring a held job to a terminal state."""
    with catalog.transaction() as tx:
        if state is JobState.SUCCEEDED:
            tx.leases.succeed(job.id, job.fence, {"answer": 42})
        elif state is JobState.FAILED:
            tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
        else:
            tx.leases.cancelled(job.id, job.fence)


def test_new_job_is_queued_with_the_defaults_of_its_kind(catalog: Catalog) -> None:
    job = ask(catalog, kind=JobKind.EVALUATE)
    assert (job.state, job.kind, job.priority) == (JobState.QUEUED, JobKind.EVALUATE, PRIORITY[JobKind.EVALUATE])
    assert (job.fence, job.attempts, job.progress, job.cancel_requested) == (0, 0, 0.0, False)
    assert (job.started_at, job.finished_at, job.lease_owner, job.result, job.error) == (None,) * 5


def test_claim_counts_fences_and_attempts_and_leases_by_the_clock_of_the_database(catalog: Catalog) -> None:
    job = ask(catalog)
    taken = held(catalog, lease_seconds=60.0)
    assert (taken.id, taken.state, taken.fence, taken.attempts) == (job.id, JobState.RUNNING, 1, 1)
    assert taken.lease_owner == "worker"
    assert taken.lease_expires_at is not None
    assert taken.started_at is not None
    assert taken.lease_expires_at - taken.started_at == pytest.approx(60.0, abs=0.5)
    with catalog.transaction() as tx:
        (attempt,) = tx.jobs.attempts(job.id)
    assert (attempt.number, attempt.submission_id, attempt.owner) == (1, f"{job.id}-a1", "worker")
    assert (attempt.ended_at, attempt.outcome) == (None, None)


def test_nothing_to_claim(catalog: Catalog) -> None:
    assert claim(catalog) is None
    ask(catalog, kind=JobKind.TRAIN)
    assert claim(catalog, JobKind.RECONSTRUCT, JobKind.EVALUATE) is None


def test_interactive_work_goes_first_then_first_come_first_served(catalog: Catalog) -> None:
    kinds = [JobKind.TRAIN, JobKind.EVALUATE, JobKind.RECONSTRUCT, JobKind.EVALUATE, JobKind.RECONSTRUCT]
    asked = [ask(catalog, f"question {i}", kind).id for i, kind in enumerate(kinds)]
    taken = [held(catalog).id for _ in kinds]
    assert taken == [asked[i] for i in (2, 4, 1, 3, 0)]


def test_own_priority_overrides_that_of_the_kind(catalog: Catalog) -> None:
    ask(catalog, "usual")
    with catalog.transaction() as tx:
        urgent, _ = tx.jobs.enqueue(JobKind.TRAIN, payload={}, content_key="urgent", priority=1)
    assert held(catalog).id == urgent.id


def test_success_keeps_the_result_and_closes_the_attempt(catalog: Catalog) -> None:
    ask(catalog)
    job = held(catalog)
    end(catalog, job, JobState.SUCCEEDED)
    job = get(catalog, job.id)
    assert (job.state, job.result, job.progress, job.lease_owner) == (JobState.SUCCEEDED, {"answer": 42}, 1.0, None)
    assert job.finished_at is not None
    with catalog.transaction() as tx:
        (attempt,) = tx.jobs.attempts(job.id)
    assert (attempt.outcome, attempt.ended_at) == (AttemptOutcome.SUCCEEDED, job.finished_at)


def test_heartbeat_extends_the_lease_and_reports(catalog: Catalog) -> None:
    ask(catalog)
    job = held(catalog, lease_seconds=10.0)
    assert job.lease_expires_at is not None
    with catalog.transaction() as tx:
        assert not tx.leases.heartbeat(job.id, 1, lease_seconds=100.0, progress=0.25, message="read 1 of 4")
    later = get(catalog, job.id)
    assert later.lease_expires_at is not None
    assert later.lease_expires_at > job.lease_expires_at + 80
    assert (later.progress, later.message) == (0.25, "read 1 of 4")
    with catalog.transaction() as tx:
        tx.leases.heartbeat(job.id, 1, lease_seconds=100.0)
    assert (get(catalog, job.id).progress, get(catalog, job.id).message) == (0.25, "read 1 of 4")


def test_a_report_says_something_and_extends_no_lease(catalog: Catalog) -> None:
    ask(catalog)
    job = held(catalog)
    with catalog.transaction() as tx:
        tx.leases.report(job.id, 1, "read 2 of 4")
    later = get(catalog, job.id)
    assert (later.message, later.lease_expires_at) == ("read 2 of 4", job.lease_expires_at)
    end(catalog, job, JobState.CANCELLED)
    with pytest.raises(LeaseLost), catalog.transaction() as tx:
        tx.leases.report(job.id, 1, "too late")


def test_adopting_changes_who_looks_after_running_jobs_of_a_kind(catalog: Catalog) -> None:
    for content, kind in (("a", JobKind.TRAIN), ("b", JobKind.EVALUATE)):
        ask(catalog, content, kind)
    train, evaluate = claim(catalog, JobKind.TRAIN), claim(catalog, JobKind.EVALUATE)
    assert train is not None
    assert evaluate is not None
    waiting = ask(catalog, "c", JobKind.TRAIN)
    with catalog.transaction() as tx:
        tx.leases.adopt([JobKind.TRAIN], owner="another")
    assert [get(catalog, job.id).lease_owner for job in (train, evaluate, waiting)] == ["another", "worker", None]
    with catalog.transaction() as tx:
        assert not tx.leases.heartbeat(train.id, train.fence, lease_seconds=60.0), "its holder goes on"


@pytest.mark.parametrize(("told", "kept"), [(-0.5, 0.0), (1.0000001, 1.0)])
def test_progress_stays_a_fraction(catalog: Catalog, told: float, kept: float) -> None:
    ask(catalog)
    job = held(catalog)
    with catalog.transaction() as tx:
        tx.leases.heartbeat(job.id, 1, lease_seconds=60, progress=told)
    assert get(catalog, job.id).progress == kept


class TestFences:
    """A worker that lost its job changes nothing, whatever it tries."""

    CALLS = (
        ("heartbeat", lambda tx, job: tx.leases.heartbeat(job.id, job.fence, lease_seconds=60, progress=0.9)),
        ("assert_fence", lambda tx, job: tx.leases.assert_fence(job.id, job.fence)),
        ("succeed", lambda tx, job: tx.leases.succeed(job.id, job.fence, {"late": True})),
        ("fail", lambda tx, job: tx.leases.fail(job.id, job.fence, "Late.", retry=False)),
        ("fail and retry", lambda tx, job: tx.leases.fail(job.id, job.fence, "Late.", retry=True)),
        ("cancelled", lambda tx, job: tx.leases.cancelled(job.id, job.fence)),
        ("release", lambda tx, job: tx.leases.release(job.id, job.fence)),
        ("made_progress", lambda tx, job: tx.leases.made_progress(job.id, job.fence)),
    )

    def refused(self, catalog: Catalog, late: Job) -> None:
        before = columns(get(catalog, late.id))
        for name, call in self.CALLS:
            with pytest.raises(LeaseLost, match=f"Attempt {late.fence} no longer holds"), catalog.transaction() as tx:
                call(tx, late)
            assert columns(get(catalog, late.id)) == before, name

    def test_after_another_claimed_it(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog)
        late = held(catalog)
        clockwork.run_out(late.id)
        with catalog.transaction() as tx:
            tx.leases.expire()
        assert held(catalog).fence == 2
        self.refused(catalog, late)

    def test_after_it_went_back_to_the_queue(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog)
        late = held(catalog)
        clockwork.run_out(late.id)
        with catalog.transaction() as tx:
            tx.leases.expire()
        self.refused(catalog, late)

    @pytest.mark.parametrize("state", TERMINAL)
    def test_after_the_end(self, catalog: Catalog, state: JobState) -> None:
        ask(catalog)
        late = held(catalog)
        end(catalog, late, state)
        self.refused(catalog, late)

    def test_of_a_job_that_never_was(self, catalog: Catalog) -> None:
        for _, call in self.CALLS:
            with pytest.raises(LeaseLost), catalog.transaction() as tx:
                call(tx, Job(id="job-never", fence=1))

    def test_what_was_written_beside_a_lost_fence_is_rolled_back(
        self, catalog: Catalog, clockwork: Clockwork, run_id: str
    ) -> None:
        late = held(catalog)
        clockwork.run_out(late.id)
        with catalog.transaction() as tx:
            tx.leases.expire()

        def write_late() -> None:
            with catalog.transaction() as tx:
                tx.checkpoints.add(run_id=run_id, num_images=64, key="k", size=1, sha256="s")
                tx.leases.assert_fence(late.id, late.fence)

        with pytest.raises(LeaseLost):
            write_late()
        with catalog.transaction() as tx:
            assert tx.checkpoints.latest(run_id) is None


class TestLeases:
    def test_silent_worker_loses_its_job_to_the_next(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog)
        first = held(catalog)
        clockwork.run_out(first.id)
        with catalog.transaction() as tx:
            (job,) = tx.leases.expire()
        assert (job.id, job.state, job.lease_owner) == (first.id, JobState.QUEUED, None)
        assert "fell silent" in str(job.error)
        second = held(catalog)
        assert (second.fence, second.attempts) == (2, 2)
        with catalog.transaction() as tx:
            outcomes = [attempt.outcome for attempt in tx.jobs.attempts(first.id)]
        assert outcomes == [AttemptOutcome.EXPIRED, None]

    def test_a_living_lease_is_left_alone(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        with catalog.transaction() as tx:
            assert tx.leases.expire() == []
        assert get(catalog, job.id).state is JobState.RUNNING

    def test_a_late_heartbeat_keeps_a_job_that_nobody_took(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog)
        job = held(catalog)
        clockwork.run_out(job.id)
        with catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=60)
            assert tx.leases.expire() == []

    def test_many_expire_at_once(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ids = [ask(catalog, f"question {i}").id for i in range(3)]
        for _ in ids:
            clockwork.run_out(held(catalog).id)
        with catalog.transaction() as tx:
            assert [job.id for job in tx.leases.expire()] == ids

    def test_only_the_kinds_asked_for_expire(self, catalog: Catalog, clockwork: Clockwork) -> None:
        for kind in JobKind:
            ask(catalog, kind, kind)
            clockwork.run_out(held(catalog).id)
        with catalog.transaction() as tx:
            assert [job.kind for job in tx.leases.expire([JobKind.TRAIN])] == [JobKind.TRAIN]
            assert tx.leases.expire([]) == []
            assert {job.kind for job in tx.leases.expire()} == set(JobKind) - {JobKind.TRAIN}

    def test_attempts_without_progress_are_limited(self, catalog: Catalog, clockwork: Clockwork) -> None:
        job_id = ask(catalog, max_attempts=2).id
        states = []
        for _ in range(2):
            clockwork.run_out(held(catalog).id)
            with catalog.transaction() as tx:
                states += [job.state for job in tx.leases.expire()]
        assert states == [JobState.QUEUED, JobState.FAILED]
        assert get(catalog, job_id).error == (
            "The worker worker fell silent and its lease ran out; all 2 attempts without progress are used up."
        )
        assert get(catalog, job_id).finished_at is not None

    def test_progress_renews_the_attempts(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog, max_attempts=2)
        for _ in range(5):
            job = held(catalog)
            with catalog.transaction() as tx:
                tx.leases.made_progress(job.id, job.fence)
            clockwork.run_out(job.id)
            with catalog.transaction() as tx:
                assert [job.state for job in tx.leases.expire()] == [JobState.QUEUED]

    def test_an_attempt_that_ended_for_another_reason_than_its_job_does_not_count(
        self, catalog: Catalog, clockwork: Clockwork
    ) -> None:
        ask(catalog, max_attempts=1)
        for fence in (1, 2, 3):
            job = held(catalog)
            assert (job.fence, job.attempts) == (fence, 1)
            clockwork.run_out(job.id)
            with catalog.transaction() as tx:
                (job,) = tx.leases.expire(reason=lambda job: f"Ray ended {job.fence}", uncounted={job.id})
            assert (job.state, job.attempts, job.error) == (JobState.QUEUED, 0, f"Ray ended {fence}.")

    def test_a_postponed_job_lets_others_go_first_and_its_wait_is_no_attempt(self, catalog: Catalog) -> None:
        first, second = ask(catalog, "large"), ask(catalog, "small")
        with catalog.transaction() as tx:
            due = tx.leases.next_due([JobKind.RECONSTRUCT])
            assert due is not None
            assert due.id == first.id
            tx.leases.postpone(first.id, "waiting for resources", 3600)
            assert tx.leases.claim([JobKind.RECONSTRUCT], owner="o", lease_seconds=60, job_id=first.id) is None
        waits = get(catalog, first.id)
        assert (waits.state, waits.message, waits.fence, waits.attempts) == (
            JobState.QUEUED,
            "waiting for resources",
            0,
            0,
        )
        assert held(catalog).id == second.id
        with catalog.transaction() as tx:
            tx.leases.postpone(second.id, "too late", 3600)
            assert tx.leases.next_due([JobKind.RECONSTRUCT]) is None
        assert get(catalog, second.id).message is None, "somebody else has claimed it"

    def test_a_job_is_claimed_by_its_id(self, catalog: Catalog) -> None:
        ask(catalog, "first")
        second = ask(catalog, "second")
        with catalog.transaction() as tx:
            job = tx.leases.claim([JobKind.RECONSTRUCT], owner="o", lease_seconds=60, job_id=second.id)
        assert job is not None
        assert job.id == second.id

    def test_handing_back_does_not_count_as_an_attempt(self, catalog: Catalog) -> None:
        ask(catalog, max_attempts=1)
        for fence in (1, 2, 3):
            job = held(catalog)
            assert (job.fence, job.attempts) == (fence, 1)
            with catalog.transaction() as tx:
                assert tx.leases.release(job.id, job.fence).state is JobState.QUEUED
        with catalog.transaction() as tx:
            assert {attempt.outcome for attempt in tx.jobs.attempts(job.id)} == {AttemptOutcome.RELEASED}


class TestFailures:
    def test_without_retry_is_final(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        with catalog.transaction() as tx:
            assert tx.leases.fail(job.id, job.fence, "The snapshot is corrupt.", retry=False) is JobState.FAILED
        job = get(catalog, job.id)
        assert (job.state, job.error, job.lease_owner) == (JobState.FAILED, "The snapshot is corrupt.", None)

    def test_retries_pause_longer_each_time_until_the_attempts_are_used_up(
        self, catalog: Catalog, clockwork: Clockwork
    ) -> None:
        job_id = ask(catalog, max_attempts=3).id
        pauses = []
        for attempt in (1, 2):
            job = held(catalog)
            with catalog.transaction() as tx:
                assert tx.leases.fail(job_id, job.fence, f"Error {attempt}.", retry=True) is JobState.QUEUED
            job = get(catalog, job_id)
            assert job.error == f"Error {attempt}."
            with catalog.transaction() as tx:
                ended_at = tx.jobs.attempts(job_id)[-1].ended_at
            assert ended_at is not None
            pauses.append(job.not_before - ended_at)
            assert claim(catalog) is None, "the pause is not over"
            clockwork.pass_pauses()
        assert pauses == pytest.approx([retry_delay(1), retry_delay(2)], abs=1e-5)
        job = held(catalog)
        with catalog.transaction() as tx:
            assert tx.leases.fail(job_id, job.fence, "Error 3.", retry=True) is JobState.FAILED
            errors = [attempt.error for attempt in tx.jobs.attempts(job_id)]
        assert errors == ["Error 1.", "Error 2.", "Error 3."]
        assert get(catalog, job_id).error == "Error 3."

    def test_success_after_a_failure_leaves_no_error(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog)
        job = held(catalog)
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "Once.", retry=True)
        clockwork.pass_pauses()
        job = held(catalog)
        started_at = job.started_at
        end(catalog, job, JobState.SUCCEEDED)
        job = get(catalog, job.id)
        assert (job.error, job.started_at) == (None, started_at)

    def test_pauses_double_up_to_a_limit(self) -> None:
        assert [retry_delay(attempts) for attempts in (0, 1, 2, 3, 4)] == [1, 1, 2, 4, 8]
        assert retry_delay(10_000) == 300


class TestCancel:
    def request(self, catalog: Catalog, job_id: str) -> Job:
        with catalog.transaction() as tx:
            return tx.jobs.request_cancel(job_id)

    def test_queued_is_cancelled_at_once(self, catalog: Catalog) -> None:
        job = self.request(catalog, ask(catalog).id)
        assert (job.state, job.started_at) == (JobState.CANCELLED, None)
        assert job.finished_at is not None
        assert claim(catalog) is None

    def test_running_is_asked_to_stop(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        assert self.request(catalog, job.id).state is JobState.RUNNING
        with catalog.transaction() as tx:
            assert tx.leases.heartbeat(job.id, job.fence, lease_seconds=60), "the heartbeat tells of the request"
            assert tx.leases.cancelled(job.id, job.fence).state is JobState.CANCELLED
            assert [attempt.outcome for attempt in tx.jobs.attempts(job.id)] == [AttemptOutcome.CANCELLED]

    @pytest.mark.parametrize("state", TERMINAL)
    def test_finished_stays_as_it_is(self, catalog: Catalog, state: JobState) -> None:
        ask(catalog)
        job = held(catalog)
        end(catalog, job, state)
        before = columns(get(catalog, job.id))
        assert columns(self.request(catalog, job.id)) == before

    def test_asked_twice(self, catalog: Catalog) -> None:
        job_id = ask(catalog).id
        first = columns(self.request(catalog, job_id))
        assert columns(self.request(catalog, job_id)) == first

    def test_unknown(self, catalog: Catalog) -> None:
        with pytest.raises(NotFound, match="There is no job 'job-x'"):
            self.request(catalog, "job-x")

    def test_silent_worker_of_a_cancelled_job(self, catalog: Catalog, clockwork: Clockwork) -> None:
        ask(catalog, max_attempts=1)
        job = held(catalog)
        self.request(catalog, job.id)
        clockwork.run_out(job.id)
        with catalog.transaction() as tx:
            assert [job.state for job in tx.leases.expire()] == [JobState.CANCELLED]

    def test_failing_instead_of_stopping_is_not_retried(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        self.request(catalog, job.id)
        with catalog.transaction() as tx:
            assert tx.leases.fail(job.id, job.fence, "Interrupted.", retry=True) is JobState.CANCELLED
        assert get(catalog, job.id).error is None

    def test_handing_back_instead_of_stopping_is_not_retried(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        self.request(catalog, job.id)
        with catalog.transaction() as tx:
            assert tx.leases.release(job.id, job.fence).state is JobState.CANCELLED

    def test_finishing_before_noticing_is_a_success(self, catalog: Catalog) -> None:
        ask(catalog)
        job = held(catalog)
        self.request(catalog, job.id)
        with catalog.transaction() as tx:
            assert tx.leases.succeed(job.id, job.fence).state is JobState.SUCCEEDED


class TestContentKeys:
    def again(self, catalog: Catalog) -> tuple[Job, bool]:
        with catalog.transaction() as tx:
            return tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={"other": 1}, content_key="question")

    def test_same_question_while_queued_or_running_or_answered(self, catalog: Catalog) -> None:
        first = ask(catalog)
        job, created = self.again(catalog)
        assert (job.id, created, job.payload) == (first.id, False, {"key": "question"})
        taken = held(catalog)
        assert self.again(catalog)[1] is False
        end(catalog, taken, JobState.SUCCEEDED)
        job, created = self.again(catalog)
        assert (job.id, job.state, created) == (first.id, JobState.SUCCEEDED, False)

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
    def test_a_question_without_an_answer_may_be_asked_again(self, catalog: Catalog, state: JobState) -> None:
        ask(catalog)
        old = held(catalog)
        end(catalog, old, state)
        job, created = self.again(catalog)
        assert created
        assert job.id != old.id
        assert get(catalog, old.id).state is state


def test_stats_count_states_and_tell_the_age_of_the_queue(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        assert tx.queue_stats.read().counts == []
    for i in range(3):
        ask(catalog, f"question {i}")
    ask(catalog, "figures", JobKind.EVALUATE)
    held(catalog)
    with catalog.transaction() as tx:
        stats = tx.queue_stats.read()
        running = tx.jobs.running(JobKind.RECONSTRUCT)
    assert set(stats.counts) == {
        (JobKind.RECONSTRUCT, JobState.QUEUED, 2),
        (JobKind.RECONSTRUCT, JobState.RUNNING, 1),
        (JobKind.EVALUATE, JobState.QUEUED, 1),
    }
    assert set(stats.oldest_queued_seconds) == {JobKind.RECONSTRUCT, JobKind.EVALUATE}
    assert all(0 <= age < 300 for age in stats.oldest_queued_seconds.values())
    assert [job.payload["key"] for job in running] == ["question 0"]


def test_stats_that_continue_earlier_ones_count_the_same(catalog: Catalog, clockwork: Clockwork) -> None:
    settled = EndedCounts()
    passed = 1000.0
    for number in range(3):
        ask(catalog, f"question {number}", list(JobKind)[number % 2])
        end(catalog, held(catalog), TERMINAL[number])
        with catalog.transaction(read_only=True) as tx:
            continued, anew = tx.queue_stats.read(settled), tx.queue_stats.read()
        assert sorted(continued.counts) == sorted(anew.counts)
        assert sorted(continued.attempts) == sorted(anew.attempts)
        assert sum(count for *_, count in anew.attempts) == number + 1
        assert sum(continued.settled.jobs.values()) == number, "the last minutes are counted again"
        clockwork.let_pass(passed)
        settled = replace(
            continued.settled,
            until=continued.settled.until - passed,
            counted_at=continued.settled.counted_at - passed,
        )


@pytest.mark.parametrize("seconds_ago", [RECOUNT_SECONDS, -60.0])
def test_stats_are_counted_anew_after_a_while_and_after_the_clock_was_set_back(
    catalog: Catalog, seconds_ago: float
) -> None:
    wrong = EndedCounts(Counter({(JobKind.TRAIN, JobState.FAILED): 7}), until=1.0, counted_at=catalog.now())
    with catalog.transaction(read_only=True) as tx:
        assert tx.queue_stats.read(wrong).counts == [(JobKind.TRAIN, JobState.FAILED, 7)]
        assert tx.queue_stats.read(replace(wrong, counted_at=wrong.counted_at - seconds_ago)).counts == []


def test_jobs_are_listed_by_kind_state_and_run(catalog: Catalog, run_id: str) -> None:
    first, second = ask(catalog, "a"), ask(catalog, "b", JobKind.EVALUATE)
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(second.id)
        of_run = tx.jobs.list(run_id=run_id).items
        assert [job.kind for job in of_run] == [JobKind.TRAIN]
        assert [job.id for job in tx.jobs.list(kind=JobKind.RECONSTRUCT).items] == [first.id]
        assert [job.id for job in tx.jobs.list(state=JobState.CANCELLED).items] == [second.id]
        assert [job.id for job in tx.jobs.list().items] == [second.id, first.id, of_run[0].id], "newest first"
