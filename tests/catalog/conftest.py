"""Fixtures of the catalog's tests: a run, jobs, and a clock that can be moved."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from phema.shared.catalog import Catalog, Job, JobKind
from phema.shared.catalog.engine import parse_url


class Clockwork:
    """Sets times in the database into the past, so that tests need not wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._one_at_a_time = threading.Lock()

    def run_out(self, job_id: str) -> None:
        """Let the lease of this job run out."""
        self._execute("UPDATE jobs SET lease_expires_at = 1 WHERE id = :id AND state = 'running'", id=job_id)

    def pass_pauses(self) -> None:
        """End every pause before a retry."""
        # Two updates of every row may lock the rows in opposite orders, which Postgres ends as a deadlock.
        with self._one_at_a_time:
            self._execute("UPDATE jobs SET not_before = 0")

    def let_pass(self, seconds: float) -> None:
        """Let every job and attempt have ended so much earlier."""
        self._execute(f"UPDATE jobs SET finished_at = finished_at - {seconds}")
        self._execute(f"UPDATE attempts SET ended_at = ended_at - {seconds}")

    def _execute(self, statement: str, **parameters: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement), parameters)


@pytest.fixture
def clockwork(catalog_url: str) -> Iterator[Clockwork]:
    engine = create_engine(parse_url(catalog_url))
    yield Clockwork(engine)
    engine.dispose()


@pytest.fixture
def run_id(catalog: Catalog) -> str:
    with catalog.transaction() as tx:
        return tx.runs.create("digits", {"preset": "digits", "seed": 0}, "hash", total_images=1000).id


def ask(catalog: Catalog, key: str = "question", kind: JobKind = JobKind.RECONSTRUCT, max_attempts: int = 5) -> Job:
    """A queued job."""
    with catalog.transaction() as tx:
        return tx.jobs.enqueue(kind, payload={"key": key}, content_key=key, max_attempts=max_attempts)[0]


def claim(catalog: Catalog, *kinds: JobKind, owner: str = "worker", lease_seconds: float = 60.0) -> Job | None:
    with catalog.transaction() as tx:
        return tx.leases.claim(kinds or list(JobKind), owner=owner, lease_seconds=lease_seconds)


def held(catalog: Catalog, **options: float) -> Job:
    """Claim a job; one must be due."""
    job = claim(catalog, **options)  # type: ignore[arg-type]
    assert job is not None
    return job
