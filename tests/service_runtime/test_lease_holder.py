"""What a missed heartbeat, an unreachable catalog and a lost lease mean to a service that goes on working."""

from __future__ import annotations

import io
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, Transaction
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder
from phema.shared.telemetry import configure_logs, log_fields


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(f"sqlite:///{tmp_path / 'state' / 'catalog.db'}")
    catalog.upgrade()
    yield catalog
    catalog.close()


@pytest.fixture
def job(catalog: Catalog) -> Job:
    with catalog.transaction() as tx:
        tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key="question")
        job = tx.leases.claim([JobKind.EVALUATE], owner="worker", lease_seconds=60)
    assert job is not None
    return job


def holder(catalog: Catalog, job: Job, **options: Any) -> LeaseHolder:
    defaults: dict[str, Any] = {"interval_s": 0.02, "lease_s": 60, "progress": lambda: JobProgress(0.5, "half")}
    return LeaseHolder(catalog, job.id, job.fence, **defaults | options)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def take_away(catalog: Catalog, folder: Path) -> None:
    catalog.close()
    folder.rename(folder.with_name("away"))


def bring_back(folder: Path) -> None:
    folder.with_name("away").rename(folder)


def test_heartbeats_report_and_are_told(catalog: Catalog, job: Job) -> None:
    beats: queue.Queue[None] = queue.Queue()
    with holder(catalog, job, on_beat=lambda: beats.put(None)):
        beats.get(timeout=30)
        with catalog.transaction(read_only=True) as tx:
            row = tx.jobs.get(job.id)
    assert (row.progress, row.message) == (0.5, "half")


def test_a_cancel_is_noticed_and_heartbeats_go_on(catalog: Catalog, job: Job) -> None:
    beats: queue.Queue[None] = queue.Queue()
    with holder(catalog, job, on_beat=lambda: beats.put(None)) as lease:
        with catalog.transaction() as tx:
            tx.jobs.request_cancel(job.id)
        wait_until(lambda: lease.stop_requested)
        beats.get(timeout=30)
        beats.get(timeout=30)
        assert not lease.lost
        assert lease.end(lambda tx: tx.leases.cancelled(job.id, job.fence)).state is JobState.CANCELLED


def test_an_outage_without_a_limit_loses_nothing(catalog: Catalog, job: Job, tmp_path: Path) -> None:
    tries: list[float] = []

    def progress() -> JobProgress:
        tries.append(time.monotonic())
        return JobProgress()

    with holder(catalog, job, progress=progress, lease_s=0.1) as lease:
        take_away(catalog, tmp_path / "state")
        begun = len(tries)
        wait_until(lambda: len(tries) > begun + 10)
        assert not lease.lost
        bring_back(tmp_path / "state")
        assert lease.end(lambda tx: tx.leases.succeed(job.id, job.fence)).state is JobState.SUCCEEDED


def test_a_progress_that_cannot_be_had_is_a_missed_heartbeat(catalog: Catalog, job: Job) -> None:
    beats: queue.Queue[None] = queue.Queue()
    answers: Iterator[Exception | None] = iter([CatalogUnreachable("there", "it is away"), ValueError("a mistake")])

    def progress() -> JobProgress:
        error = next(answers, None)
        if error is not None:
            raise error
        return JobProgress()

    with holder(catalog, job, progress=progress, on_beat=lambda: beats.put(None)) as lease:
        beats.get(timeout=30)
        assert not lease.lost


def test_a_lease_that_another_attempt_has_is_lost(catalog: Catalog, job: Job) -> None:
    lost: queue.Queue[str] = queue.Queue()
    with holder(catalog, job, on_lost=lost.put) as lease:
        with catalog.transaction() as tx:
            tx.leases.release(job.id, job.fence)
            assert tx.leases.claim([JobKind.EVALUATE], owner="another", lease_seconds=60) is not None
        assert "no longer holds job" in lost.get(timeout=30)
        assert lease.lost
        with pytest.raises(LeaseLost):
            lease.end(lambda tx: tx.leases.succeed(job.id, job.fence))
    assert not lease.end_uncertain


def test_the_end_is_not_tried_again_once_the_service_stops(catalog: Catalog, job: Job, tmp_path: Path) -> None:
    stopping = threading.Event()
    lease = holder(catalog, job, stopping=stopping, retry_s=60)
    take_away(catalog, tmp_path / "state")
    threading.Timer(0.1, stopping.set).start()
    with pytest.raises(CatalogUnreachable):
        lease.end(lambda tx: tx.leases.succeed(job.id, job.fence))
    assert lease.end_uncertain
    bring_back(tmp_path / "state")


def test_a_commit_whose_answer_was_lost_is_known_to_be_uncertain(catalog: Catalog, job: Job) -> None:
    """Then a lost lease may be the sign of this attempt's own end."""
    lease, tries = holder(catalog, job, retry_s=0.01), iter((1, 2))

    def write(tx: Transaction) -> Job:
        if next(tries) == 1:
            raise CatalogUnreachable("there", "the connection broke")
        return tx.leases.succeed(job.id, job.fence)

    assert lease.end(write).state is JobState.SUCCEEDED
    assert lease.end_uncertain


def test_lines_of_the_heartbeat_carry_the_fields_of_the_caller(
    catalog: Catalog, job: Job, log_stream: io.StringIO
) -> None:
    def progress() -> JobProgress:
        raise CatalogUnreachable("there", "it is away")

    configure_logs("worker", stream=log_stream)
    logging.getLogger().setLevel(logging.WARNING)
    with log_fields(job_id=job.id), holder(catalog, job, progress=progress):
        wait_until(lambda: "heartbeat missed" in log_stream.getvalue())
    line = json.loads(log_stream.getvalue().splitlines()[0])
    assert line["job_id"] == job.id
