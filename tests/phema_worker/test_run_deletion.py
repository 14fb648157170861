"""The deletion of a run by a worker: whichever step its process dies at, nothing is half deleted in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from phema.administration.rebuild import rebuild
from phema.services.phema_worker.deletion.delete_run import RunDeletion
from phema.shared.catalog import Catalog, EventKind, Job, JobKind, JobState, Run, RunDeleted
from phema.shared.catalog.models import Deletion
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.snapshots.files.deleted_runs import DeletedRun, deleted_runs, keys_of_run, record_deletion
from phema.shared.snapshots.files.run_document import RunDocument
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import attempt_log_key, run_key
from phema.shared.submissions import run_deletions
from tests.api import seed

pytestmark = pytest.mark.parametrize("store", ["local"], indirect=True)
MOST_STEPS = 40


def full_run(catalog: Catalog, store: ObjectStore, name: str = "digits") -> Run:
    """An ended run with something of each kind: snapshots, a checkpoint, weights, an evaluation, history, a log."""
    run = seed.run(catalog, name)
    job = seed.claim(catalog, JobKind.TRAIN)
    with catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
        tx.history.put(run.id, 640, {"loss": 1.0})
    seed.snapshots(catalog, store, run.id, times=(3200, 6400))
    store.put(run_key(run.id), RunDocument(id=run.id, name=run.name, config=run.config).encode())
    store.put(attempt_log_key(run.id, "a1"), b"log")
    store.put(f"runs/{run.id}/checkpoints/one.pt", b"checkpoint")
    weights = seed.reconstruction(catalog, store, run.id)
    with catalog.transaction() as tx:
        tx.checkpoints.add(run_id=run.id, num_images=6400, key=f"runs/{run.id}/checkpoints/one.pt", size=10, sha256="c")
        recipe = EvaluationRecipe(num_samples=64, num_steps=4).document()
        row, _ = tx.evaluations.find_or_create(run_id=run.id, reconstruction_id=weights.id, recipe=recipe)
        job, _ = tx.jobs.enqueue(
            JobKind.EVALUATE, payload={"evaluation_id": row.id}, content_key=f"e:{row.id}", run_id=run.id
        )
        tx.evaluations.assign([row.id], job.id)
    seed.finish_evaluation(catalog, store, {"fid": 1.0})
    return run


def ask(catalog: Catalog, run: Run, *, max_attempts: int = 5) -> Job:
    with catalog.transaction() as tx:
        tx.runs.lock(run.id)
        return run_deletions.request(tx, tx.runs.get(run.id), 0.0, with_models=False, max_attempts=max_attempts)


def attempt(catalog: Catalog, store: ObjectStore) -> JobState:
    """One attempt at the oldest due deletion, in this process."""
    job = seed.claim(catalog, JobKind.DELETE)
    end = RunDeletion(catalog, store, job).perform()
    with catalog.transaction() as tx:
        return end(tx)


def everything(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


def assert_gone(catalog: Catalog, store: ObjectStore, run: Run, before: set[str]) -> None:
    """Nothing of the run is left but its history; `before`: objects of others, which are all there."""
    assert not list(keys_of_run(store, run.id))
    assert everything(store) == before | {f"deleted/{run.id}.json"}
    with catalog.transaction() as tx:
        assert not tx.deletions.keys()
        with pytest.raises(RunDeleted, match=f"Run digits \\({run.id}\\) was deleted at 20"):
            tx.runs.get(run.id)
        with pytest.raises(RunDeleted):
            tx.runs.get("digits")
        assert run.id not in {row.id for row in tx.runs.list().items}
        assert not tx.snapshots.list(run.id)
        assert not tx.run_deletions.results(run.id)
        assert len(tx.jobs.list(run_id=run.id).items) == 4
        assert [event.kind for event in tx.run_events.list(run.id).items][-2:] == [
            EventKind.DELETE_REQUESTED,
            EventKind.DELETED,
        ]


def test_a_deleted_run_leaves_its_history_and_its_name(catalog: Catalog, store: ObjectStore) -> None:
    other = full_run(catalog, store, "other")
    before = everything(store)
    run = full_run(catalog, store)
    job = ask(catalog, run)
    assert attempt(catalog, store) is JobState.SUCCEEDED
    assert_gone(catalog, store, run, before)
    with catalog.transaction() as tx:
        assert tx.jobs.get(job.id).state is JobState.SUCCEEDED
        assert len(tx.snapshots.list(other.id)) == 4, "other runs keep everything"
        assert tx.run_deletions.results(other.id)["evaluations"] == 1
    again = seed.run(catalog, "digits")
    with catalog.transaction() as tx:
        assert tx.runs.get("digits").id == again.id
        with pytest.raises(RunDeleted):
            tx.runs.get(run.id)


def test_a_process_that_dies_at_any_step_is_continued(catalog: Catalog, store: ObjectStore, catalog_url: str) -> None:
    before = everything(store)
    run = full_run(catalog, store)
    ask(catalog, run, max_attempts=MOST_STEPS)
    environment = {**os.environ, "PHEMA_DATABASE_URL": catalog_url, "PHEMA_STORE_URL": store.url}
    died, removed_at = 0, None
    command = [sys.executable, "-m", "tests.phema_worker.mortal_deletion"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as mortal:  # type: ignore[call-overload]
        for step in range(1, MOST_STEPS):
            print(step, file=mortal.stdin, flush=True)
            if (ended := mortal.stdout.readline().strip()) == "done":
                break
            assert ended == "-9"
            died += 1
            _assert_consistent(catalog, store, run)
            _let_claims_lapse(catalog)
            with catalog.transaction() as tx:
                if removed_at is None and tx.run_deletions.is_removed(run.id):
                    removed_at = step
        mortal.stdin.close()
    assert died >= 5
    assert removed_at is not None
    assert_gone(catalog, store, run, before)


def _assert_consistent(catalog: Catalog, store: ObjectStore, run: Run) -> None:
    """No row names a missing object, and no object is forgotten: rows or the list of deletions name each."""
    with catalog.transaction() as tx:
        named = {key for kind in tx.run_deletions.objects(run.id) for key in kind.keys}
        listed = tx.deletions.keys()
        removed = tx.run_deletions.is_removed(run.id)
    stored = everything(store)
    assert named <= stored
    assert not removed or not named
    own = {key for key, _ in keys_of_run(store, run.id)}
    assert not removed or own <= listed
    assert not removed or run.id in deleted_runs(store), "a rebuild would restore the run"


def _let_claims_lapse(catalog: Catalog) -> None:
    """What a process that died had claimed is due again a minute later."""
    with catalog.transaction() as tx:
        tx.deletions._session.execute(update(Deletion).values(claimed_at=None))


def test_a_rebuild_does_not_bring_a_half_deleted_run_back(catalog: Catalog, store: ObjectStore, tmp_path: Path) -> None:
    run, other = full_run(catalog, store), seed.run(catalog, "other")
    store.put(run_key(other.id), RunDocument(id=other.id, name="other", config=other.config).encode())
    record_deletion(store, DeletedRun(id=run.id, name=run.name, delete_at=1.0))
    rebuilt = Catalog(f"sqlite:///{tmp_path / 'new' / 'catalog.db'}")
    rebuilt.upgrade()
    assert rebuild(rebuilt, store).runs == 1
    with rebuilt.transaction() as tx:
        assert [row.name for row in tx.runs.all()] == ["other"]
    assert delete_listed(rebuilt, store) > 0
    rebuilt.close()
    assert not list(keys_of_run(store, run.id))
    assert list(keys_of_run(store, other.id))


def test_it_waits_for_jobs_of_the_run_and_of_others(catalog: Catalog, store: ObjectStore) -> None:
    run = full_run(catalog, store)
    ask(catalog, run)
    with catalog.transaction() as tx:  # a job that slipped in, as if its request had begun before
        tx.runs._session.execute(update(Run).where(Run.id == run.id).values(delete_at=None))
        late, _ = tx.jobs.enqueue(JobKind.COMPACT, payload={}, content_key="late", run_id=run.id)
        tx.runs._session.execute(update(Run).where(Run.id == run.id).values(delete_at=1.0))
        claimed = tx.leases.claim([JobKind.COMPACT], owner="worker", lease_seconds=60.0)
        assert claimed is not None
    assert attempt(catalog, store) is JobState.QUEUED
    with catalog.transaction() as tx:
        assert tx.jobs.get(late.id).cancel_requested
        assert tx.leases.claim([JobKind.DELETE], owner="test", lease_seconds=60) is None, "it waits"
        tx.leases.cancelled(late.id, claimed.fence)
    assert attempt(catalog, store) is JobState.SUCCEEDED


def test_a_store_that_is_away_after_the_rows_are_gone_delays_it(catalog: Catalog, store: ObjectStore) -> None:
    run = full_run(catalog, store)
    ask(catalog, run)
    away: Any = _Away(store)
    assert attempt(catalog, away) is JobState.QUEUED
    with catalog.transaction() as tx:
        job = tx.run_deletions.job(run.id)
        assert job is not None
        assert "objects are deleted later" in str(job.message)
        tx.leases.postpone(job.id, "", 0.0)
    _let_claims_lapse(catalog)
    assert attempt(catalog, store) is JobState.SUCCEEDED


class _Away:
    """A store that refuses to delete."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def delete(self, key: str) -> None:
        from phema.shared.snapshots import StoreUnreachable

        raise StoreUnreachable("the store does not answer")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
