"""A cancelled run stops after the step in progress; until then the job's message says what the run still does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt
from phema.services.trainer.training import cancellation as module
from phema.services.trainer.training import loop, snapshot_writer
from phema.services.trainer.training.cancellation import Cancellation
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.snapshots import ObjectInfo, ObjectStore, StoreFull
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.trainer.support import checkpoint_times, get_run, tiny_config, wait_until

ONCE = dict.fromkeys(("snapshot_every", "checkpoint_every", "status_every"), 16_000)
CONFIG = tiny_config(total_images=16_000, **ONCE)
"""1000 steps without a status, a snapshot or a checkpoint before the last."""


@pytest.fixture
def attempt(local_catalog: Catalog) -> TrainingAttempt:
    return claim_locally(CONFIG, local_catalog)


def request_cancel(catalog: Catalog, attempt: TrainingAttempt) -> None:
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)


def message(catalog: Catalog, attempt: TrainingAttempt) -> str:
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(attempt.job_id).message or ""


@contextmanager
def training(
    attempt: TrainingAttempt,
    catalog: Catalog,
    store: ObjectStore,
    release: threading.Event,
    outage_s: float = snapshot_writer.OUTAGE_SECONDS,
) -> Iterator[None]:
    """Trains in another thread; leaving the block sets `release` and waits for the end of the training."""
    errors: list[BaseException] = []

    def train() -> None:
        try:
            train_attempt(attempt, catalog, store, outage_s=outage_s)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        release.set()
        thread.join()
    assert errors == []


def held_at(monkeypatch: pytest.MonkeyPatch, number: int, reached: threading.Event, release: threading.Event) -> None:
    """Make step `number` of the loop set `reached` and wait for `release`."""
    original: Callable[..., Any] = loop.train_step
    steps = 0

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == number:
            reached.set()
            release.wait()
        return original(*arguments)

    monkeypatch.setattr(loop, "train_step", step)


def test_a_cancelled_run_stops_after_its_step_and_reports_until_all_is_stored(
    attempt: TrainingAttempt, local_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message keeps changing during a slow step and during a slow upload of the checkpoint."""
    uploading, stored = threading.Event(), threading.Event()

    class Slow(LocalStore):
        def put(self, key: str, data: Any) -> ObjectInfo:
            if "checkpoints" in key:
                uploading.set()
                stored.wait()
            return super().put(key, data)

    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    reached, release = threading.Event(), threading.Event()
    held_at(monkeypatch, 3, reached, release)

    def says(what: str) -> str:
        found: str = wait_until(lambda: what in (word := message(local_catalog, attempt)) and word, what, 30)
        wait_until(lambda: what in (word := message(local_catalog, attempt)) and word != found, "another message", 30)
        return found

    everything = threading.Event()
    with training(attempt, local_catalog, Slow(tmp_path / "store"), everything):
        try:
            assert reached.wait(60)
            request_cancel(local_catalog, attempt)
            says("s: the step in progress ends first")
            release.set()
            assert uploading.wait(60)
            says("s: storing a checkpoint")
            assert checkpoint_times(local_catalog, attempt.run_id) == []
        finally:
            release.set()
            stored.set()
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.CANCELLED
    assert checkpoint_times(local_catalog, attempt.run_id) == [48]
    assert get_run(local_catalog, attempt.run_id).num_images == 48
    assert message(local_catalog, attempt) == "stopped at 48 of 16000 images"


@pytest.mark.parametrize("every", [16_000, 16], ids=["at the checkpoint", "while a step waits for room"])
def test_a_cancelled_run_gives_a_full_store_up_long_before_an_outage_ends_it(
    every: int, local_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(snapshot_writer, "CANCELLED_PATIENCE_SECONDS", 1.0)
    failed = threading.Event()

    class Full(LocalStore):
        def put(self, key: str, data: Any) -> ObjectInfo:
            if "checkpoints" in key or "snapshots" in key:
                failed.set()
                raise StoreFull(f"the store has no room for {key}")
            return super().put(key, data)

    config = tiny_config(total_images=16_000, **dict.fromkeys(ONCE, every))
    attempt = claim_locally(config, local_catalog)
    with training(attempt, local_catalog, Full(tmp_path / "store"), threading.Event(), outage_s=3600):
        if every == 16:
            assert failed.wait(60)
        request_cancel(local_catalog, attempt)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.CANCELLED
    assert checkpoint_times(local_catalog, attempt.run_id) == []


def test_messages_stop_when_storing_the_checkpoint_hangs(
    attempt: TrainingAttempt, local_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_STORE_SECONDS", 0.0)
    request_cancel(local_catalog, attempt)
    with Cancellation(attempt, local_catalog, WorkerGroup()) as cancel:
        assert cancel.stop_now()
        said = message(local_catalog, attempt)
        cancel._poll()
    assert message(local_catalog, attempt) == said


def test_messages_stop_when_a_step_hangs(
    attempt: TrainingAttempt, local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "LONGEST_STEP_SECONDS", 0.2)
    reached, release, looked = threading.Event(), threading.Event(), threading.Semaphore(0)
    held_at(monkeypatch, 2, reached, release)
    original = Cancellation._report

    def report(cancel: Cancellation) -> None:
        original(cancel)
        looked.release()

    monkeypatch.setattr(Cancellation, "_report", report)
    with training(attempt, local_catalog, local_store, release):
        assert reached.wait(60)
        request_cancel(local_catalog, attempt)
        wait_until(lambda: message(local_catalog, attempt).startswith("cancelling for"), "a message", 30)
        last = ""
        while (word := message(local_catalog, attempt)) != last:
            last = word
            for _ in range(5):
                assert looked.acquire(timeout=30)
        assert float(last.split()[2]) <= 0.2
    assert checkpoint_times(local_catalog, attempt.run_id) == [32]


def test_after_a_cancel_heartbeats_keep_the_workers_message(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    def lease() -> float:
        with local_catalog.transaction(read_only=True) as tx:
            expires = tx.jobs.get(attempt.job_id).lease_expires_at
        assert expires is not None
        return expires

    request_cancel(local_catalog, attempt)
    with hold_lease(attempt, local_catalog, interval_s=0.02, lease_s=180):
        assert message(local_catalog, attempt) == "0 of 16000 images", "the trainer waits for a first message"
        with local_catalog.transaction() as tx:
            tx.leases.report(attempt.job_id, attempt.fence, "cancelling for 1.0 s: something")
        before = lease()
        wait_until(lambda: lease() > before, "a heartbeat", 30)
        assert message(local_catalog, attempt) == "cancelling for 1.0 s: something"


def test_an_unreachable_catalog_is_polled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    folder, away = tmp_path / "state", tmp_path / "away"
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    attempt = claim_locally(CONFIG, catalog)
    request_cancel(catalog, attempt)
    catalog.close()
    folder.rename(away)
    with Cancellation(attempt, catalog, WorkerGroup()) as cancel:
        assert not cancel.stop_now()
        catalog.close()
        away.rename(folder)
        wait_until(cancel.stop_now, "the cancel", 30)
    catalog.close()


def test_a_cancel_of_a_later_attempt_is_ignored(local_catalog: Catalog, attempt: TrainingAttempt) -> None:
    with local_catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        assert tx.leases.claim([JobKind.TRAIN], owner="another", lease_seconds=60) is not None
    request_cancel(local_catalog, attempt)
    with Cancellation(attempt, local_catalog, WorkerGroup()) as cancel:
        assert not cancel.stop_now()


def test_several_workers_agree_rarely_and_stop_together(
    local_catalog: Catalog, attempt: TrainingAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 1000 quick steps the workers communicate fewer than 40 times; the other workers follow the first one."""
    said: list[int] = []

    def heard(group: WorkerGroup, value: int) -> int:
        said.append(value)
        return value

    monkeypatch.setattr(WorkerGroup, "minimum", heard)
    with Cancellation(attempt, local_catalog, WorkerGroup(0, 2)) as first:
        assert not any(first.stop_now() for _ in range(1000))
        assert len(said) < 40
        assert max(said) == module.MOST_STEPS
    monkeypatch.setattr(WorkerGroup, "minimum", lambda group, value: module.STOP)
    with Cancellation(attempt, local_catalog, WorkerGroup(1, 2)) as second:
        assert second.stop_now()
