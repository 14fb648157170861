"""Jobs that need other jobs."""

from __future__ import annotations

from collections.abc import Iterable
from select import select

from phema.shared.catalog import Catalog, Job, JobKind, JobState
from tests.catalog.conftest import Clockwork, ask, claim

PART, WHOLE = JobKind.DRAW, JobKind.EVALUATE


def taken(catalog: Catalog, kind: JobKind) -> Job:
    """Claim a job of this kind; one must be due."""
    job = claim(catalog, kind)
    assert job is not None
    return job


def part(catalog: Catalog, key: str, parent: Job) -> Job:
    with catalog.transaction() as tx:
        return tx.jobs.enqueue(PART, payload={}, content_key=key, parent_id=parent.id)[0]


def wait(catalog: Catalog, job: Job, needs: Iterable[Job], allowed: int = 0) -> Job:
    with catalog.transaction() as tx:
        ids = [needed.id for needed in needs]
        return tx.leases.wait_for(job.id, job.fence, ids, message="waiting", progress=0.1, allowed_unfinished=allowed)


def state(catalog: Catalog, job: Job) -> JobState:
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(job.id).state


def cancel(catalog: Catalog, job: Job) -> None:
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)


def waiting_for_two(catalog: Catalog, allowed: int = 0) -> tuple[Job, list[Job]]:
    """A job that was claimed, and waits for two that it enqueued."""
    ask(catalog, "whole", WHOLE)
    whole = taken(catalog, WHOLE)
    parts = [part(catalog, key, whole) for key in ("a", "b")]
    return wait(catalog, whole, parts, allowed), parts


def finish_one(catalog: Catalog) -> Job:
    job = taken(catalog, PART)
    with catalog.transaction() as tx:
        return tx.leases.succeed(job.id, job.fence)


def test_a_job_is_claimed_when_all_that_it_needs_has_ended(catalog: Catalog) -> None:
    whole, _ = waiting_for_two(catalog)
    assert (whole.state, whole.message, whole.progress, whole.attempts) == (JobState.QUEUED, "waiting", 0.1, 0)
    for _ in range(2):
        assert claim(catalog, WHOLE) is None
        with catalog.transaction(read_only=True) as tx:
            assert tx.leases.next_due([WHOLE]) is None
            assert tx.leases.count_due([WHOLE], limit=5) == 0
            assert tx.leases.seconds_until_due([WHOLE]) is None, "it must not be looked for again and again"
        finish_one(catalog)
    again = taken(catalog, WHOLE)
    assert (again.id, again.fence, again.attempts) == (whole.id, 2, 1)


def test_a_job_may_be_claimed_while_some_that_it_needs_are_unfinished(catalog: Catalog) -> None:
    whole, _ = waiting_for_two(catalog, allowed=1)
    assert claim(catalog, WHOLE) is None
    finish_one(catalog)
    assert taken(catalog, WHOLE).id == whole.id


def test_a_failed_or_cancelled_job_no_longer_blocks(catalog: Catalog) -> None:
    whole, parts = waiting_for_two(catalog)
    failing = taken(catalog, PART)
    with catalog.transaction() as tx:
        tx.leases.fail(failing.id, failing.fence, "It broke.", retry=False)
    cancel(catalog, parts[1])
    assert taken(catalog, WHOLE).id == whole.id


def test_waiting_anew_replaces_what_a_job_needs(catalog: Catalog) -> None:
    whole, _ = waiting_for_two(catalog)
    finish_one(catalog)
    finish_one(catalog)
    again = taken(catalog, WHOLE)
    late = part(catalog, "c", again)
    wait(catalog, again, [late])
    assert claim(catalog, WHOLE) is None
    finish_one(catalog)
    assert taken(catalog, WHOLE).id == whole.id


def test_a_cancel_takes_along_what_nothing_else_needs(catalog: Catalog) -> None:
    whole, (first, second) = waiting_for_two(catalog)
    running = taken(catalog, PART)
    assert running.id == first.id
    ask(catalog, "other", WHOLE)
    other = taken(catalog, WHOLE)
    shared = part(catalog, "shared", whole)
    wait(catalog, other, [shared])
    cancel(catalog, whole)
    assert state(catalog, whole) is JobState.CANCELLED
    assert state(catalog, second) is JobState.CANCELLED
    assert state(catalog, shared) is JobState.QUEUED, "another job needs it"
    assert state(catalog, first) is JobState.RUNNING
    with catalog.transaction() as tx:
        assert tx.leases.heartbeat(running.id, running.fence, lease_seconds=60.0), "its holder is asked to stop"


def test_a_failed_job_cancels_its_parts_and_theirs(catalog: Catalog) -> None:
    ask(catalog, "sweep", JobKind.SWEEP)
    sweep = taken(catalog, JobKind.SWEEP)
    with catalog.transaction() as tx:
        tx.jobs.enqueue(WHOLE, payload={}, content_key="whole", parent_id=sweep.id)
    whole = taken(catalog, WHOLE)
    parts = [part(catalog, key, whole) for key in ("a", "b")]
    wait(catalog, whole, parts)
    with catalog.transaction() as tx:
        tx.leases.fail(sweep.id, sweep.fence, "It broke.", retry=False)
    assert {state(catalog, job) for job in (whole, *parts)} == {JobState.CANCELLED}


def test_what_a_user_asked_for_too_is_not_cancelled_with_its_parent(catalog: Catalog) -> None:
    whole, (first, second) = waiting_for_two(catalog)
    with catalog.transaction() as tx:
        job, new = tx.jobs.enqueue(PART, payload={}, content_key="a")
        assert (job.id, new) == (first.id, False)
    cancel(catalog, whole)
    assert (state(catalog, first), state(catalog, second)) == (JobState.QUEUED, JobState.CANCELLED)


def test_a_job_cancelled_while_it_is_held_ends_when_it_would_wait(catalog: Catalog) -> None:
    ask(catalog, "whole", WHOLE)
    whole = taken(catalog, WHOLE)
    cancel(catalog, whole)
    child = part(catalog, "a", whole)
    assert wait(catalog, whole, [child]).state is JobState.CANCELLED
    assert state(catalog, child) is JobState.CANCELLED


def test_the_end_of_a_needed_job_rings(catalog: Catalog) -> None:
    waiting_for_two(catalog, allowed=1)
    with catalog.listening() as bell:
        bell.drain()
        finish_one(catalog)
        assert select([bell], [], [], 5.0)[0]


def test_a_job_whose_lease_runs_out_is_still_needed(catalog: Catalog, clockwork: Clockwork) -> None:
    waiting_for_two(catalog)
    lost = taken(catalog, PART)
    clockwork.run_out(lost.id)
    with catalog.transaction() as tx:
        tx.leases.expire([PART])
    assert claim(catalog, WHOLE) is None


def test_what_two_parents_want_is_cancelled_with_neither(catalog: Catalog) -> None:
    whole, (first, second) = waiting_for_two(catalog)
    ask(catalog, "other", WHOLE)
    other = taken(catalog, WHOLE)
    assert part(catalog, "a", other).id == first.id  # before `other` says that it needs it
    cancel(catalog, whole)
    assert (state(catalog, first), state(catalog, second)) == (JobState.QUEUED, JobState.CANCELLED)


def test_a_request_withdraws_a_cancel_that_was_not_obeyed_yet(catalog: Catalog) -> None:
    job = ask(catalog, "a", PART)
    running = taken(catalog, PART)
    cancel(catalog, job)
    assert ask(catalog, "a", PART).id == job.id
    with catalog.transaction() as tx:
        assert not tx.leases.heartbeat(running.id, running.fence, lease_seconds=60.0), "nobody asks it to stop now"
        assert tx.leases.release(running.id, running.fence).state is JobState.QUEUED


def test_a_step_that_waits_counts_as_progress(catalog: Catalog, clockwork: Clockwork) -> None:
    """A study lives for days: deaths of its coordinator must not add up."""
    ask(catalog, "study", JobKind.SWEEP)
    for _ in range(7):
        for _ in range(2):  # a process dies in the middle of the step, and the next one does it
            study = taken(catalog, JobKind.SWEEP)
            clockwork.run_out(study.id)
            with catalog.transaction() as tx:
                tx.leases.expire([JobKind.SWEEP])
        assert wait(catalog, taken(catalog, JobKind.SWEEP), []).attempts == 0


def test_old_parts_are_removed_unless_a_job_needs_them(catalog: Catalog, run_id: str) -> None:
    whole = ask(catalog, "whole", WHOLE)
    held_whole = taken(catalog, WHOLE)
    requests = [(f"part:{name}", {"first": 0}) for name in "abc"]
    with catalog.transaction() as tx:
        rows = tx.sample_parts.find_or_create_all(run_id, "drawing", requests)
        jobs = [tx.jobs.enqueue(PART, payload={}, content_key=row.id, parent_id=whole.id)[0] for row in rows]
        for row, job in zip(rows, jobs, strict=True):
            tx.sample_parts.assign([row.id], job.id)
        for row in rows[:2]:
            tx.sample_parts.complete(row.id, {"key": f"evaluations/parts/{row.id}"})
        tx.leases.set_needs(held_whole.id, held_whole.fence, [jobs[0].id])
        assert not tx.sample_parts.any_older(60.0)
        assert tx.sample_parts.any_older(-1.0)
        assert tx.sample_parts.expire(-1.0) == [f"evaluations/parts/{rows[1].id}"]
        assert sorted(tx.sample_parts.keys("drawing")) == ["part:a", "part:c"], "needed, and not drawn yet"
        tx.leases.succeed(held_whole.id, held_whole.fence)
        assert tx.sample_parts.expire(-1.0) == [f"evaluations/parts/{rows[0].id}"]
        assert tx.sample_parts.find_or_create_all(run_id, "drawing", requests)[0].needs_job


def test_a_cancelled_tree_leaves_no_work_running(catalog: Catalog) -> None:
    """A chain whose middle is being worked on: what depends on it is cancelled, what it needs alone is too."""
    whole, parts = waiting_for_two(catalog)
    with catalog.transaction() as tx:
        after, _ = tx.jobs.enqueue(WHOLE, payload={}, content_key="after", needs=[whole.id])
        last, _ = tx.jobs.enqueue(WHOLE, payload={}, content_key="last", needs=[after.id])
        other, _ = tx.jobs.enqueue(WHOLE, payload={}, content_key="other")
    running = taken(catalog, PART)
    with catalog.transaction() as tx:
        assert tx.jobs.cancel_tree(whole.id).state is JobState.CANCELLED
    assert [state(catalog, job) for job in (after, last)] == [JobState.CANCELLED] * 2
    assert state(catalog, other) is JobState.QUEUED
    with catalog.transaction() as tx:
        assert tx.jobs.get(running.id).cancel_requested, "its worker stops at its next step"
        tx.leases.cancelled(running.id, running.fence)
    assert [state(catalog, job) for job in parts] == [JobState.CANCELLED] * 2
    with catalog.transaction() as tx:
        assert tx.jobs.get(after.id).error == f"The evaluate job {whole.id}, which it needs, was cancelled."


def test_a_cancelled_job_in_the_middle_of_a_running_tree(catalog: Catalog) -> None:
    """The job that others wait for is running: they end at once, and it when its worker obeys."""
    with catalog.transaction() as tx:
        first, _ = tx.jobs.enqueue(PART, payload={}, content_key="first")
        after, _ = tx.jobs.enqueue(WHOLE, payload={}, content_key="after", needs=[first.id])
    held = taken(catalog, PART)
    with catalog.transaction() as tx:
        tx.jobs.cancel_tree(first.id)
    assert state(catalog, first) is JobState.RUNNING
    assert state(catalog, after) is JobState.CANCELLED
    with catalog.transaction() as tx:
        tx.leases.cancelled(held.id, held.fence)
    assert state(catalog, first) is JobState.CANCELLED
