"""Pins, retirement and bases: which snapshots may be deleted, and which bases replace them."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import Basis, Catalog, JobKind, JobState, NotFound, Snapshot, Transaction
from tests.catalog.conftest import held

BASIS_PLAN: dict[str, Any] = {
    "snapshots": [{"id": "snap-1", "sha256": "abc"}],
    "vectors": [[1.0], [0.5]],
    "error": 1e-5,
}
VECTORS = [{"key": "a", "size": 1, "sha256": "0" * 64}, {"key": "b", "size": 2, "sha256": "1" * 64}]


@pytest.fixture(autouse=True)
def _no_training_in_the_queue(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(tx.runs.get(run_id).job_id)


def add(tx: Transaction, run_id: str, num_images: int) -> tuple[Snapshot, bool]:
    return tx.snapshots.add(
        run_id=run_id,
        num_images=num_images,
        profile={"kind": "power", "sigma_rel": 0.05},
        dtype="float16",
        key=f"runs/{run_id}/{num_images}",
        size=10,
        sha256=f"{num_images:064d}",
        probe=b"1234",
    )


@pytest.fixture
def ids(catalog: Catalog, run_id: str) -> list[str]:
    with catalog.transaction() as tx:
        return [add(tx, run_id, time)[0].id for time in (100, 200, 300)]


def test_a_retired_snapshot_is_seen_nowhere_and_never_comes_back(catalog: Catalog, run_id: str, ids: list[str]) -> None:
    with catalog.transaction() as tx:
        tx.snapshots.retire(ids[:1])
    with catalog.transaction() as tx:
        assert [row.id for row in tx.snapshots.list(run_id)] == ids[1:]
        assert [row.id for row in tx.snapshots.page(run_id).items] == ids[1:]
        assert tx.snapshots.times(run_id) == [200, 300]
        assert set(tx.snapshots.probes(run_id)) == set(ids[1:])
        assert [row.id for row in tx.snapshots.retired(run_id)] == ids[:1]
        assert tx.snapshots.missing([*ids, "snap-none"]) == {ids[0], "snap-none"}
        with pytest.raises(NotFound):
            tx.snapshots.get(ids[0])
        row, created = add(tx, run_id, 100)
        assert (row.id, created) == (ids[0], False)
        assert row.retired_at is not None, "a trainer that writes it again does not bring it back"
        tx.snapshots.set_pinned(ids[:1], True)
        since = row.retired_at
    with catalog.transaction() as tx:
        tx.snapshots.retire(ids[:1])
        (row,) = tx.snapshots.retired(run_id)
        assert (row.retired_at, row.pinned) == (since, False)


def test_only_retired_rows_are_removed(catalog: Catalog, run_id: str, ids: list[str]) -> None:
    with catalog.transaction() as tx:
        tx.snapshots.retire(ids[:2])
    with catalog.transaction() as tx:
        assert tx.snapshots.remove(ids) == 2
        assert tx.snapshots.remove(ids) == 0
        assert [row.id for row in tx.snapshots.list(run_id)] == ids[2:]
        assert tx.snapshots.retired(run_id) == []


def test_a_pinned_snapshot_cannot_be_retired(catalog: Catalog, run_id: str, ids: list[str]) -> None:
    with catalog.transaction() as tx:
        tx.snapshots.set_pinned(ids[:2], True)
        tx.snapshots.set_pinned(ids[1:2], False)
        tx.snapshots.retire(ids)
        assert [(row.id, row.pinned) for row in tx.snapshots.list(run_id)] == [(ids[0], True)]


def test_more_snapshots_than_one_statement_takes(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        ids = [add(tx, run_id, time)[0].id for time in range(1, 1501)]
        tx.snapshots.retire(ids)
        assert len(tx.snapshots.retired(run_id)) == 1500
        assert tx.snapshots.missing(ids) == set(ids)
        assert tx.snapshots.remove(ids) == 1500


def want(tx: Transaction, run_id: str, **changes: Any) -> tuple[Basis, bool]:
    question = {"num_images": 300, "sigma_rel_min": 0.02, "sigma_rel_max": 0.25, "tolerance": 1e-4}
    return tx.bases.find_or_create(run_id=run_id, **{**question, "plan": BASIS_PLAN, **changes})


def test_a_basis_is_computed_once_and_its_vectors_stay(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        row, needs_job = want(tx, run_id)
        job, _ = tx.jobs.enqueue(
            JobKind.COMPACT, payload={"basis_id": row.id}, content_key=row.content_key, run_id=run_id
        )
        tx.bases.assign([row.id], job.id)
        assert needs_job
        assert tx.bases.finished(run_id) == []
    with catalog.transaction() as tx:
        same, needs_job = want(tx, run_id)
        assert (same.id, needs_job, same.state) == (row.id, False, JobState.QUEUED)
        assert [found.id for found in tx.bases.under_way(run_id)] == [row.id]
        assert want(tx, run_id, tolerance=1e-3)[0].id != row.id
        assert want(tx, run_id, plan={**BASIS_PLAN, "snapshots": [{"id": "snap-1", "sha256": "def"}]})[0].id != row.id
    job = held(catalog)
    with catalog.transaction() as tx:
        tx.bases.complete(row.id, VECTORS)
        tx.bases.complete(row.id, VECTORS[:1])
        tx.leases.succeed(job.id, job.fence)
    with catalog.transaction() as tx:
        assert tx.bases.under_way(run_id) == []
        (found,) = tx.bases.finished(run_id)
        assert (found.id, found.state, found.vectors, found.plan) == (row.id, JobState.SUCCEEDED, VECTORS, BASIS_PLAN)


def test_what_a_failed_job_was_about_is_not_under_way(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        row, _ = want(tx, run_id)
        job, _ = tx.jobs.enqueue(JobKind.COMPACT, payload={}, content_key=row.content_key, run_id=run_id)
        tx.bases.assign([row.id], job.id)
    job = held(catalog)
    with catalog.transaction() as tx:
        assert [found.id for found in tx.bases.under_way(run_id)] == [row.id], "a running one reads"
        tx.leases.fail(job.id, job.fence, "it broke", retry=False)
        assert tx.bases.under_way(run_id) == []
        assert want(tx, run_id)[1]
