"""Heartbeats extend the lease; a process that cannot send them ends."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.heartbeat import EXIT_LOST, Waiting, hold_lease, report_start
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, JobKind, JobState, LeaseLost
from tests.trainer.support import tiny_config, wait_until


@pytest.fixture
def attempt(local_catalog: Catalog) -> TrainingAttempt:
    return claim_locally(tiny_config(), local_catalog)


def take_away(catalog: Catalog, attempt: TrainingAttempt) -> None:
    with catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        assert tx.leases.claim([JobKind.TRAIN], owner="another", lease_seconds=60) is not None


def test_the_first_heartbeat_is_sent_at_once_with_a_message(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    with hold_lease(attempt, local_catalog, interval_s=60, lease_s=180), local_catalog.transaction() as tx:
        job = tx.jobs.get(attempt.job_id)
        assert job.message == "0 of 320 images"


def test_heartbeats_extend_the_lease_and_report_progress(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    def lease() -> float:
        with local_catalog.transaction() as tx:
            expires = tx.jobs.get(attempt.job_id).lease_expires_at
        assert expires is not None
        return expires

    with hold_lease(attempt, local_catalog, interval_s=0.05, lease_s=180):
        first = lease()
        wait_until(lambda: lease() > first, "a longer lease")
        with local_catalog.transaction() as tx:
            tx.runs.set_progress(attempt.run_id, 160)

        def progress() -> float:
            with local_catalog.transaction() as tx:
                return tx.jobs.get(attempt.job_id).progress

        wait_until(lambda: progress() == 0.5, "half the progress")


def test_heartbeats_say_what_a_run_waits_for_until_it_trains_on(
    local_catalog: Catalog, attempt: TrainingAttempt
) -> None:
    def message() -> str | None:
        with local_catalog.transaction(read_only=True) as tx:
            return tx.jobs.get(attempt.job_id).message

    waiting = Waiting()
    with hold_lease(attempt, local_catalog, interval_s=0.02, lease_s=180, waiting=waiting):
        waiting.sentence = "waiting for resources: 1 CPU"
        wait_until(lambda: message() == "waiting for resources: 1 CPU", "the sentence")
        report_start(attempt, local_catalog)  # as the first worker does once the workers have found room
        wait_until(lambda: message() == "0 of 320 images", "the usual message")
        waiting.sentence = "waiting for resources: 1 CPU"
        wait_until(lambda: message() == "waiting for resources: 1 CPU", "the sentence")
        with local_catalog.transaction() as tx:
            tx.runs.set_progress(attempt.run_id, 160)
        wait_until(lambda: message() == "160 of 320 images", "the usual message")


def test_a_lost_lease_is_reported_once(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    told: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, local_catalog, interval_s=0.05, lease_s=180, on_lost=told.put):
        take_away(local_catalog, attempt)
        assert "Attempt 1 no longer holds job" in told.get(timeout=30)
    assert told.empty()


def test_a_catalog_that_stays_away_for_too_long_ends_the_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    attempt = claim_locally(tiny_config(), catalog)
    told: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, catalog, interval_s=0.05, lease_s=60, outage_s=0.5, on_lost=told.put):
        catalog.close()
        folder.rename(tmp_path / "away")
        reason = told.get(timeout=30)
    assert reason.startswith("no heartbeat for")
    assert "cannot be used" in reason
    catalog.close()


def test_a_lost_lease_ends_the_process(local_catalog: Catalog, attempt: TrainingAttempt, tmp_path: Path) -> None:
    code = f"""
import threading
from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.shared.catalog import Catalog
catalog = Catalog({f"sqlite:///{tmp_path / 'catalog.db'}"!r})
attempt = load_attempt(catalog, {attempt.job_id!r}, {attempt.fence})
with hold_lease(attempt, catalog, interval_s=0.05, lease_s=60):
    print("beating", flush=True)
    threading.Event().wait()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "beating\n"
        take_away(local_catalog, attempt)
        assert process.wait(timeout=60) == EXIT_LOST
    finally:
        process.kill()
        process.communicate()


def test_no_heartbeat_follows_the_end(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    """It would find the lease gone and kill a process that is about to end normally."""
    told: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, local_catalog, interval_s=0.01, lease_s=60, on_lost=told.put) as lease:
        with local_catalog.transaction() as tx:
            tx.jobs.request_cancel(attempt.job_id)
        assert lease.end(lambda tx: finish_job(tx, attempt)) is JobState.CANCELLED
        threading.Event().wait(0.1)
    assert told.empty()


def test_the_end_waits_for_a_catalog_that_is_away(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    attempt = claim_locally(tiny_config(), catalog)
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    with hold_lease(attempt, catalog, interval_s=60, lease_s=180) as lease:
        catalog.close()
        folder.rename(tmp_path / "away")
        back = threading.Timer(0.3, lambda: (tmp_path / "away").rename(folder))
        back.start()
        assert lease.end(lambda tx: finish_job(tx, attempt)) is JobState.CANCELLED
        back.join()
    catalog.close()


def test_the_end_of_a_stale_attempt_is_refused(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    with hold_lease(attempt, local_catalog, interval_s=60, lease_s=180) as lease:
        take_away(local_catalog, attempt)
        with pytest.raises(LeaseLost):
            lease.end(lambda tx: finish_job(tx, attempt))
