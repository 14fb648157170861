"""SIGKILL at every step of every transaction: nothing is half-written, lost or done twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from phema.shared.catalog import AttemptOutcome, Catalog, JobState
from tests.catalog.conftest import Clockwork, ask, claim, held
from tests.catalog.processes import LEASE_SECONDS


@contextmanager
def program(name: str, url: str, argument: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.catalog.processes", name, url, argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def finish(catalog: Catalog, clockwork: Clockwork, run_id: str) -> None:
    """What the next worker does once the lease of a dead worker has run out."""
    with catalog.transaction() as tx:
        job_id = tx.runs.get(run_id).job_id
    clockwork.run_out(job_id)
    clockwork.pass_pauses()
    with catalog.transaction() as tx:
        tx.leases.expire()
    job = claim(catalog, owner="heir")
    if job is not None:
        with catalog.transaction() as tx:
            tx.checkpoints.add(run_id=run_id, num_images=64, key="checkpoint", size=1, sha256="s")
            tx.history.put(run_id, 64, {"loss": 1.0})
            tx.leases.succeed(job.id, job.fence, {"num_images": 64})


def check_finished(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        run = tx.runs.get(run_id)
        attempts = tx.jobs.attempts(run.job_id)
        assert (run.state, run.job.result) == (JobState.SUCCEEDED, {"num_images": 64})
        assert [attempt.number for attempt in attempts] == list(range(1, run.job.fence + 1))
        assert [attempt.outcome for attempt in attempts].count(AttemptOutcome.SUCCEEDED) == 1
        assert all(attempt.outcome is not None for attempt in attempts)
        assert len(tx.history.list(run_id).items) == len(tx.checkpoints.all_but_latest(run_id, keep=0)) == 1


@pytest.mark.parametrize("scenario", ["train", "give_up", "hand_back"])
def test_a_worker_killed_at_any_step(catalog: Catalog, catalog_url: str, clockwork: Clockwork, scenario: str) -> None:
    with program("die", catalog_url, scenario) as mortal:
        assert mortal.stdin is not None
        fate, steps = ["killed"], 0
        while fate == ["killed"]:
            steps += 1
            with catalog.transaction() as tx:
                run_id = tx.runs.create(f"run {steps}", {}, "hash", total_images=64, max_attempts=2).id
            mortal.stdin.write(f"{steps}\n")
            mortal.stdin.flush()
            fate = line(mortal)
            finish(catalog, clockwork, run_id)
            check_finished(catalog, run_id)
    assert fate == ["survived"]
    assert steps > 6, "the scenario was killed at many places"


def test_the_sweep_killed_at_any_step(catalog: Catalog, catalog_url: str, clockwork: Clockwork) -> None:
    ids = [ask(catalog, f"question {i}", max_attempts=1 + i % 2).id for i in range(4)]
    for _ in ids:
        clockwork.run_out(held(catalog).id)
    with program("die", catalog_url, "take_away") as mortal:
        assert mortal.stdin is not None
        fate, steps = ["killed"], 0
        while fate == ["killed"]:
            with catalog.transaction() as tx:
                assert {tx.jobs.get(job_id).state for job_id in ids} == {JobState.RUNNING}, "all or nothing"
            steps += 1
            mortal.stdin.write(f"{steps}\n")
            mortal.stdin.flush()
            fate = line(mortal)
    with catalog.transaction() as tx:
        states = [tx.jobs.get(job_id).state for job_id in ids]
    assert states == [JobState.FAILED, JobState.QUEUED] * 2


def test_the_api_killed_at_any_step(catalog: Catalog, catalog_url: str) -> None:
    with program("die", catalog_url, "accept") as mortal:
        assert mortal.stdin is not None
        fate, steps = ["killed"], 0
        while fate == ["killed"]:
            with catalog.transaction() as tx:
                assert tx.runs.list().items == tx.jobs.list().items == tx.reconstructions.page().items == []
                assert tx.idempotency.get("request") is None
            steps += 1
            mortal.stdin.write(f"{steps}\n")
            mortal.stdin.flush()
            fate = line(mortal)
    with catalog.transaction() as tx:
        assert len(tx.jobs.list().items) == 2
        (row,) = tx.reconstructions.page().items
        assert row.state is JobState.QUEUED
        assert tx.idempotency.get("request") is not None
    assert steps > 6


def test_a_killed_holder_is_followed_by_another(catalog: Catalog, catalog_url: str) -> None:
    """In real time: heartbeats keep the job for longer than its lease, and the next worker gets it after a death."""
    job_id = ask(catalog).id
    with program("hold", catalog_url, "doomed") as holder:
        assert line(holder) == ["claimed", job_id]
        with catalog.transaction() as tx:
            first_lease = tx.jobs.get(job_id).lease_expires_at
        assert first_lease is not None
        lease = first_lease
        while lease < first_lease + 1.5 * LEASE_SECONDS:
            with catalog.transaction() as tx:
                job = tx.jobs.get(job_id)
            assert job.lease_expires_at is not None
            lease = job.lease_expires_at
            time.sleep(0.05)
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 60
    heir = None
    while heir is None and time.monotonic() < deadline:
        with catalog.transaction() as tx:
            tx.leases.expire()
            heir = tx.leases.claim([job.kind], owner="heir", lease_seconds=60)
        time.sleep(0.05)
    assert heir is not None
    assert (heir.id, heir.fence) == (job_id, 2)
    with catalog.transaction() as tx:
        tx.leases.succeed(job_id, heir.fence)
        assert [attempt.owner for attempt in tx.jobs.attempts(job_id)] == ["doomed", "heir"]


def test_workers_killed_again_and_again_finish_everything_once(catalog: Catalog, catalog_url: str) -> None:
    ids = [ask(catalog, f"question {i}", max_attempts=20).id for i in range(12)]
    for i in range(4):
        with program("work", catalog_url, f"doomed {i}") as doomed:
            # Each dies somewhere in the second job it holds.
            while line(doomed)[0] != "claimed":
                pass
            line(doomed)
            doomed.kill()
            doomed.wait()
    with program("work", catalog_url, "heir 1") as first, program("work", catalog_url, "heir 2") as second:
        for heir in (first, second):
            heir.communicate()
            assert heir.returncode == 0
    with catalog.transaction() as tx:
        expired = 0
        for job_id in ids:
            job, attempts = tx.jobs.get(job_id), tx.jobs.attempts(job_id)
            assert job.state is JobState.SUCCEEDED
            outcomes = [attempt.outcome for attempt in attempts]
            assert outcomes == [AttemptOutcome.EXPIRED] * (len(outcomes) - 1) + [AttemptOutcome.SUCCEEDED]
            assert job.result == {"by": attempts[-1].owner, "fence": attempts[-1].number}
            expired += len(outcomes) - 1
    assert expired >= 1
