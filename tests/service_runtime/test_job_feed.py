"""A process that waits for work is woken when another one commits some."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from phema.shared.catalog import Catalog, Job, JobKind
from phema.shared.catalog.doorbell import WORK, PipeDoorbell
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.work_waker import PATIENCE, WorkWaker
from tests.fixtures.catalog import only
from tests.fixtures.postgres import PostgresServer
from tests.servers.tunnel import tunnel

KINDS = [JobKind.EVALUATE]
NEVER = 100_000.0
"""Seconds between two looks: a thread that finds work sooner was woken."""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(catalog: Catalog, question: str, kind: JobKind = JobKind.EVALUATE) -> Job:
    with catalog.transaction() as tx:
        return tx.jobs.enqueue(kind, payload={}, content_key=question)[0]


class Waiting:
    """A thread that waits for a job."""

    def __init__(self, catalog: Catalog, waker: WorkWaker) -> None:
        self.waker = waker
        self.stopping, self.claimed = threading.Event(), threading.Event()
        self.job: Job | None = None
        feed = JobFeed(catalog, waker, KINDS, owner="worker", lease_s=60)

        def wait() -> None:
            while self.job is None and not self.stopping.is_set():
                self.job = feed.next(self.stopping)
            self.claimed.set()

        self.thread = threading.Thread(target=wait)
        self.thread.start()


@contextmanager
def waiting(catalog: Catalog) -> Iterator[Waiting]:
    """One whose doorbell works, after its first look."""
    looks: list[str] = []
    event.listen(catalog._engine, "before_cursor_execute", lambda *call: looks.append(call[2]))
    with WorkWaker(catalog, NEVER) as waker:
        wait_until(lambda: waker.works)
        found = Waiting(catalog, waker)
        try:
            wait_until(lambda: any("min(jobs.not_before)" in look for look in looks))
            yield found
        finally:
            found.stopping.set()
            found.thread.join()


ENQUEUE = """
import sys
from phema.shared.catalog import Catalog, JobKind
catalog = Catalog(sys.argv[1])
with catalog.transaction() as tx:
    tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key="from another process")
"""


def test_a_job_from_another_process_wakes_the_one_that_waits(catalog: Catalog, catalog_url: str) -> None:
    with waiting(catalog) as found:
        subprocess.run([sys.executable, "-c", ENQUEUE, catalog_url], check=True)
        assert found.claimed.wait(60)
    assert found.job is not None


def test_a_retry_is_claimed_when_its_pause_is_over(catalog: Catalog) -> None:
    ask(catalog, "question")
    with catalog.transaction() as tx:
        job = tx.leases.claim(KINDS, owner="another", lease_seconds=60)
        assert job is not None
        assert tx.leases.seconds_until_due(KINDS) is None
    with waiting(catalog) as found:
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "Once.", retry=True)
            assert 0 < (tx.leases.seconds_until_due(KINDS) or 0) <= 1
        assert found.claimed.wait(60)


def test_one_that_waits_ends_with_its_process(catalog: Catalog) -> None:
    with waiting(catalog) as found:
        found.stopping.set()
        found.thread.join()
    assert found.job is None


def test_what_is_rolled_back_and_what_is_no_work_wakes_nobody(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.transaction() as tx:
            tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key="never")
            raise KeyError

    with WorkWaker(catalog, NEVER) as waker:
        wait_until(lambda: waker.works)
        rings = waker.rings
        with pytest.raises(KeyError):
            fail()
        with catalog.transaction() as tx:
            tx.jobs.list()
        ask(catalog, "work")  # rings are heard in order
        wait_until(lambda: waker.rings > rings)
        assert waker.rings == rings + 1


def test_an_idle_process_looks_less_often_once_its_doorbell_works(catalog: Catalog) -> None:
    with WorkWaker(catalog, 0.5) as waker:
        wait_until(lambda: waker.works)
        assert waker.pause_s == 0.5 * PATIENCE


def test_one_that_nobody_wakes_looks_as_often_as_before(tmp_path: Path) -> None:
    """SQLite's `file:` URIs have no doorbell."""
    catalog = Catalog(f"sqlite:///file:{tmp_path / 'catalog.db'}?uri=true")
    with WorkWaker(catalog, 0.5) as waker:
        with pytest.raises(OSError, match="no doorbell"), catalog.listening():
            pass
        assert waker.pause_s == 0.5
    catalog.close()


def test_an_idle_look_reads_one_statement_and_takes_no_lock(catalog: Catalog) -> None:
    statements: list[str] = []
    with waiting(catalog) as found:
        event.listen(catalog._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        # Somebody else's work wakes it, and it looks again.
        ask(catalog, "a training", JobKind.TRAIN)
        wait_until(lambda: any("min(jobs.not_before)" in statement for statement in statements))
        found.stopping.set()
        found.thread.join()
    assert not any(statement.startswith("UPDATE") for statement in statements)


def test_an_outage_is_logged_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, away = tmp_path / "state", tmp_path / "away"
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    never = threading.Event()
    with WorkWaker(catalog, 0.01) as waker:
        feed = JobFeed(catalog, waker, KINDS, owner="worker", lease_s=60)
        for _ in range(2):
            catalog.close()
            folder.rename(away)
            for _ in range(4):
                assert feed.next(never) is None
            catalog.close()
            away.rename(folder)
            for _ in range(2):
                assert feed.next(never) is None
    catalog.close()
    said = [record.getMessage().split(":")[0] for record in caplog.records if record.threadName == "MainThread"]
    away_line, back_line = "the catalog is away; work waits until it is back", "the catalog is back after 0 s"
    assert said == [away_line, back_line] * 2


@only("postgres")
def test_a_connection_that_broke_is_made_again(
    catalog: Catalog, catalog_url: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """And the broken one leaves no error with a traceback in the log: an outage is none of the program."""
    with tunnel(postgres_server.port) as way:
        remote = Catalog(catalog_url.replace(f":{postgres_server.port}/", f":{way.port}/"))
        with waiting(remote) as found:
            way.down()
            wait_until(lambda: not found.waker.works)
            way.up()
            wait_until(lambda: found.waker.works)
            ask(catalog, "question")
            assert found.claimed.wait(60)
        remote.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@only("sqlite")
def test_the_bell_of_a_dead_process_is_taken_down(catalog: Catalog, catalog_url: str) -> None:
    code = """
import os, signal, sys
from phema.shared.catalog import Catalog
with Catalog(sys.argv[1]).listening():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, catalog_url], check=False)
    folder = Path(catalog_url.removeprefix("sqlite:///") + "-bells")
    assert len(list(folder.iterdir())) == 1
    ask(catalog, "question")
    assert list(folder.iterdir()) == []


def test_a_bell_that_nobody_hears_does_not_block_those_who_ring(tmp_path: Path) -> None:
    doorbell: Any = PipeDoorbell(tmp_path / "catalog.db", WORK)
    with doorbell.listening() as bell:
        for _ in range(100_000):
            doorbell.ring_after()
        assert bell.drain()
