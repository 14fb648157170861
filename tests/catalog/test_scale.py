"""The cost of pages, claims, metrics and plans does not grow with the catalog.

The catalog holds 500 runs, 5,000 snapshots and 5,000 jobs (`benchmarks.large_catalog`). Work is counted in rows that
the database reads, so that a scan of a table is seen however quick the machine is. `benchmarks/service.py` measures
time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect

from benchmarks.large_catalog import WELL_KEPT, Size, fill
from phema.shared.catalog import Catalog, JobKind, JobState, RunSort
from phema.shared.catalog.catalog import Transaction
from phema.shared.catalog.repositories.queue_stats import QueueStats
from tests.catalog.work import counted
from tests.fixtures.postgres import PostgresServer

SIZE = Size().divided(20)
LIMIT = 20
"""Rows of a page."""
ROWS = 2_000
"""Rows that one action may read; a scan of the jobs reads 5,000."""
WORKER = (JobKind.RECONSTRUCT, JobKind.EVALUATE, JobKind.COMPACT, JobKind.RETAIN)

PAGES: dict[str, Callable[[Transaction], Any]] = {
    "runs": lambda tx: tx.runs.list(limit=LIMIT),
    "jobs": lambda tx: tx.jobs.list(limit=LIMIT),
    "jobs of a kind": lambda tx: tx.jobs.list(kind=JobKind.TRAIN, limit=LIMIT),
    "jobs of a kind that has none": lambda tx: tx.jobs.list(kind=JobKind.EXTERNAL, limit=LIMIT),
    "jobs in a state": lambda tx: tx.jobs.list(state=JobState.SUCCEEDED, limit=LIMIT),
    "jobs in a state that none is in": lambda tx: tx.jobs.list(state=JobState.RUNNING, limit=LIMIT),
    "jobs of a kind in a state": lambda tx: tx.jobs.list(kind=JobKind.EVALUATE, state=JobState.FAILED, limit=LIMIT),
    "jobs of a run": lambda tx: tx.jobs.list(run_id=WELL_KEPT, limit=LIMIT),
    "jobs of a run of a kind": lambda tx: tx.jobs.list(run_id=WELL_KEPT, kind=JobKind.EVALUATE, limit=LIMIT),
    "jobs of a run in a state": lambda tx: tx.jobs.list(run_id=WELL_KEPT, state=JobState.FAILED, limit=LIMIT),
    "jobs of a run of a kind in a state": lambda tx: tx.jobs.list(
        run_id=WELL_KEPT, kind=JobKind.RECONSTRUCT, state=JobState.FAILED, limit=LIMIT
    ),
    "snapshots": lambda tx: tx.snapshots.page(WELL_KEPT, limit=LIMIT),
    "history": lambda tx: tx.history.list(WELL_KEPT, limit=LIMIT),
    "reconstructions": lambda tx: tx.reconstructions.summaries(WELL_KEPT, limit=LIMIT),
    "bases": lambda tx: tx.bases.page(WELL_KEPT, limit=LIMIT),
    "evaluations": lambda tx: tx.evaluations.page(limit=LIMIT),
    "evaluations of a run": lambda tx: tx.evaluations.page(WELL_KEPT, limit=LIMIT),
}
ACTIONS: dict[str, Callable[[Transaction], Any]] = {
    "claim for a worker": lambda tx: tx.leases.claim(WORKER, owner="w", lease_seconds=60),
    "claim for a trainer": lambda tx: tx.leases.claim([JobKind.TRAIN], owner="t", lease_seconds=60),
    "claim of what is not there": lambda tx: tx.leases.claim([JobKind.EXTERNAL], owner="t", lease_seconds=60),
    "expire": lambda tx: tx.leases.expire(),
    "running": lambda tx: tx.jobs.running(JobKind.TRAIN),
    "enqueue": lambda tx: tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key="new"),
    "enqueue again": lambda tx: tx.jobs.enqueue(
        JobKind.EVALUATE, payload={}, content_key=tx.jobs.get("job-00002508").content_key
    ),
    "under way": lambda tx: tx.reconstructions.under_way(WELL_KEPT),
    "snapshots of a plan": lambda tx: (tx.snapshots.list(WELL_KEPT), tx.snapshots.probes(WELL_KEPT)),
    "finished evaluations": lambda tx: tx.evaluations.finished(WELL_KEPT, LIMIT),
    "finished reconstructions": lambda tx: tx.reconstructions.finished(WELL_KEPT, None, LIMIT),
    "snapshots of another run": lambda tx: tx.snapshots.list("run-000100"),
    "runs by images": lambda tx: tx.runs.list(sort=RunSort.IMAGES, limit=LIMIT),
    "runs by progress": lambda tx: tx.runs.list(sort=RunSort.PROGRESS, limit=LIMIT),
    "runs in a state": lambda tx: tx.runs.list(state=JobState.RUNNING, limit=LIMIT),
    "loss curves of runs": lambda tx: tx.run_overviews.curves([WELL_KEPT, "run-000001"], "loss", 32),
    "best evaluations of runs": lambda tx: tx.run_overviews.best([WELL_KEPT, "run-000001"], "frechet", "lower"),
    "metrics, after the first time": lambda tx: tx.queue_stats.read(FIRST["stats"].settled),
}
FIRST: dict[str, QueueStats] = {}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("large") / "catalog.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        url = f"sqlite:///{path}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = server.create_database(request.getfixturevalue("postgres_template"))
        url = server.url(name)
    fill(url, SIZE)
    catalog = Catalog(url)
    with catalog.transaction(read_only=True) as tx:
        FIRST["stats"] = tx.queue_stats.read()
    yield catalog
    catalog.close()
    if request.param == "postgres":
        server.drop_database(name)


@pytest.mark.parametrize("what", PAGES)
def test_a_page_is_one_statement_that_reads_little_more_than_it_shows(large: Catalog, what: str) -> None:
    with counted(large) as (tx, work):
        page = PAGES[what](tx)
    assert len(page.items) <= LIMIT
    assert len(work.statements) == 1
    assert work.rows < ROWS


def test_a_page_of_evaluations_does_not_load_the_plans(large: Catalog) -> None:
    with large.transaction(read_only=True) as tx:
        rows = tx.evaluations.page(limit=LIMIT).items
    assert all({"plan", "job"} <= inspect(row.reconstruction).unloaded for row in rows)


@pytest.mark.parametrize("what", ACTIONS)
def test_an_action_reads_no_table_as_a_whole(large: Catalog, what: str) -> None:
    with counted(large) as (tx, work):
        ACTIONS[what](tx)
    assert work.statements
    assert work.rows < ROWS


def test_the_filled_catalog_is_a_whole_one(large: Catalog) -> None:
    """A test that found nothing would read little."""
    with large.transaction(read_only=True) as tx:
        empty = {name for name, page in PAGES.items() if not page(tx).items}
        assert empty == {
            "jobs of a kind that has none",
            "jobs in a state that none is in",
            "jobs of a kind in a state",
            "jobs of a run in a state",
            "jobs of a run of a kind",
            "jobs of a run of a kind in a state",
        }
        assert len(tx.snapshots.probes(WELL_KEPT)) == len(tx.snapshots.list(WELL_KEPT)) == 64
        counts = {state: sum(n for _, s, n in FIRST["stats"].counts if s == state) for state in JobState}
        assert sum(counts.values()) == SIZE.jobs
    with counted(large) as (tx, _):
        claimed = tx.leases.claim(WORKER, owner="w", lease_seconds=60)
        assert claimed is not None
