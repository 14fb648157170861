"""A paused run stops after a checkpoint and goes on from there, whichever process dies in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import LEASE_SECONDS, claim_locally, train_attempt, train_locally
from phema.services.trainer.training import cancellation, loop
from phema.services.trainer.training.measurements.status_reporter import StatusReporter
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import AttemptOutcome, Catalog, JobKind, JobState, RunState
from phema.shared.snapshots import ObjectStore
from phema.shared.telemetry import Meters
from tests.trainer.support import checkpoint_times, get_run, new_catalog, snapshots_of, tiny_config, wait_until
from tests.trainer.test_cancellation import held_at, training

CONFIG = tiny_config(total_images=320)


def pause(catalog: Catalog, attempt: TrainingAttempt) -> None:
    with catalog.transaction() as tx:
        tx.run_control.pause(attempt.run_id)


def resume(catalog: Catalog, attempt: TrainingAttempt) -> None:
    with catalog.transaction() as tx:
        tx.run_control.resume(attempt.run_id)


def finish(catalog: Catalog, attempt: TrainingAttempt) -> JobState:
    with catalog.transaction() as tx:
        return finish_job(tx, attempt)


def happened(catalog: Catalog, attempt: TrainingAttempt) -> list[str]:
    with catalog.transaction(read_only=True) as tx:
        return [event.kind.value for event in tx.run_events.list(attempt.run_id).items]


def go_on(catalog: Catalog, store: ObjectStore) -> None:
    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=LEASE_SECONDS)
    assert job is not None
    train_locally(CONFIG, catalog, store, job)


def test_a_paused_run_stops_after_the_step_and_ends_with_the_same_weights(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "POLL_SECONDS", 0.02)
    whole = train_locally(CONFIG, local_catalog, local_store, name="whole")
    attempt = claim_locally(CONFIG, local_catalog, name="paused")
    assert get_run(local_catalog, "paused").run_state is RunState.STARTING
    reached, release = threading.Event(), threading.Event()
    held_at(monkeypatch, 3, reached, release)

    def pausing() -> bool:
        return (get_run(local_catalog, "paused").job.message or "").startswith("pausing for")

    with training(attempt, local_catalog, local_store, release):
        assert reached.wait(60)
        assert get_run(local_catalog, "paused").run_state is RunState.RUNNING
        pause(local_catalog, attempt)
        wait_until(pausing, "a message", 30)
    assert checkpoint_times(local_catalog, "paused") == [48]
    assert finish(local_catalog, attempt) is JobState.PAUSED
    run = get_run(local_catalog, "paused")
    assert (run.run_state, run.num_images, run.job.message) == (RunState.PAUSED, 48, "stopped at 48 of 320 images")
    monkeypatch.undo()
    resume(local_catalog, attempt)
    go_on(local_catalog, local_store)
    assert snapshots_of(local_catalog, local_store, "paused") == snapshots_of(local_catalog, local_store, whole.id)
    assert happened(local_catalog, attempt) == [
        *("created", "starting", "running", "pause_requested", "paused"),
        *("resumed", "starting", "running", "succeeded"),
    ]


@pytest.mark.parametrize("phase", ["stored-0", "stored-1", None], ids=["before", "checkpoint-without-row", "job-open"])
def test_a_process_that_dies_while_the_run_pauses(
    phase: str | None, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Before the checkpoint, after its bytes, and after its row, before the job's state: the lease runs out, the run is
    paused, and ends with the same weights after it is resumed."""
    whole = train_locally(CONFIG, local_catalog, local_store, name="whole")
    with local_catalog.transaction() as tx:
        run = tx.runs.create("paused", CONFIG.model_dump(mode="json"), CONFIG.config_hash, CONFIG.total_images)
        job = tx.leases.claim([JobKind.TRAIN], owner="dies", lease_seconds=0.0)
        assert job is not None
        tx.run_control.pause(run.id)
    command = [sys.executable, "-m", "tests.trainer.mortal", str(tmp_path), job.id, "1", phase or "never"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == (0 if phase is None else -signal.SIGKILL), ended.stderr
    assert checkpoint_times(local_catalog, "paused") == ([16] if phase is None else [])
    with local_catalog.transaction() as tx:
        assert [expired.state for expired in tx.leases.expire([JobKind.TRAIN])] == [JobState.PAUSED]
        assert [attempt.outcome for attempt in tx.jobs.attempts(job.id)] == [AttemptOutcome.EXPIRED]
        assert tx.leases.claim([JobKind.TRAIN], owner="nobody", lease_seconds=60) is None
        tx.run_control.resume(run.id)
    go_on(local_catalog, local_store)
    assert get_run(local_catalog, "paused").run_state is RunState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "paused") == snapshots_of(local_catalog, local_store, whole.id)


def test_a_pause_that_is_withdrawn_too_late_costs_no_attempt(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """The workers had seen the request and stopped; the run is queued again at once."""
    attempt = claim_locally(CONFIG, local_catalog, max_attempts=1)
    pause(local_catalog, attempt)
    train_attempt(attempt, local_catalog, local_store)
    resume(local_catalog, attempt)
    assert finish(local_catalog, attempt) is JobState.QUEUED
    job = get_run(local_catalog, "local").job
    assert (job.attempts, job.error) == (0, None)
    go_on(local_catalog, local_store)
    assert get_run(local_catalog, "local").run_state is RunState.SUCCEEDED
    assert happened(local_catalog, attempt) == [
        *("created", "starting", "pause_requested", "running", "resumed", "queued"),
        *("starting", "running", "succeeded"),
    ]


def test_a_pause_in_the_last_step_ends_the_run(local_catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    train_attempt(attempt, local_catalog, local_store)
    pause(local_catalog, attempt)
    assert finish(local_catalog, attempt) is JobState.SUCCEEDED


def test_an_outage_of_the_catalog_only_delays_the_state(tmp_path: Path) -> None:
    folder, away = tmp_path / "state", tmp_path / "away"
    catalog = new_catalog(folder)
    attempt = claim_locally(CONFIG, catalog)
    status = StatusReporter(attempt, catalog=catalog, group=WorkerGroup(), meters=Meters("training"))
    catalog.close()
    folder.rename(away)
    status.start(0)
    catalog.close()
    away.rename(folder)
    assert get_run(catalog, "local").run_state is RunState.STARTING
    status.record(80)
    assert get_run(catalog, "local").run_state is RunState.RUNNING
    catalog.close()


def test_the_loop_says_that_it_trains_once(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when Ray Train restarts the workers within an attempt."""
    attempt = claim_locally(tiny_config(total_images=32, snapshot_every=16, checkpoint_every=16), local_catalog)
    original = loop.train_step

    def broken(*arguments: object) -> None:
        raise OSError("a worker died")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(OSError, match="a worker died"):
        train_attempt(attempt, local_catalog, local_store)
    monkeypatch.setattr(loop, "train_step", original)
    train_attempt(attempt, local_catalog, local_store)
    assert happened(local_catalog, attempt) == ["created", "starting", "running"]
