"""A training that is killed between two steps leaves no object that neither a row nor the list of deletions names."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phema.administration.rebuild import rebuild
from phema.services.trainer.attempt import TrainingAttempt, load_attempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.stores.object_keys import run_key
from tests.trainer.support import tiny_config

CONFIG = tiny_config(total_images=240, snapshot_every=80, checkpoint_every=80)


def named(catalog: Catalog, run_id: str) -> set[str]:
    """Keys of all objects that a row of the run names."""
    with catalog.transaction(read_only=True) as tx:
        rows = [*tx.snapshots.list(run_id), *tx.checkpoints.all_but_latest(run_id, 0)]
    return {run_key(run_id), *(row.key for row in rows)}


def listed(catalog: Catalog) -> set[str]:
    with catalog.transaction(read_only=True) as tx:
        return tx.deletions.keys()


def stored(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


def kill(attempt: TrainingAttempt, folder: Path, phase: str) -> None:
    program = [sys.executable, "-m", "tests.trainer.mortal", str(folder), attempt.job_id, str(attempt.fence), phase]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("phase", ["stored-1", "stored-3", "delete", "deleted"])
def test_a_killed_training_leaks_nothing(
    phase: str, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    kill(attempt, tmp_path, phase)
    known = named(local_catalog, attempt.run_id)
    assert known - {run_key(attempt.run_id)} <= stored(local_store), "every row has its object"
    left = stored(local_store) - known
    assert left <= listed(local_catalog)
    # Snapshots and checkpoints are written side by side: a second one may be there without its row, too.
    assert len(left) in ([0] if phase == "deleted" else [1, 2])
    if phase.startswith("stored"):
        assert delete_listed(local_catalog, local_store) == 0, "the next attempt may name it"
    with local_catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        job = tx.leases.claim([JobKind.TRAIN], owner="next", lease_seconds=3600.0)
    assert job is not None
    following = load_attempt(local_catalog, job.id, job.fence)
    train_attempt(following, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, following) is JobState.SUCCEEDED
    _expire_claims(local_catalog)
    delete_listed(local_catalog, local_store)
    assert stored(local_store) == named(local_catalog, attempt.run_id)
    assert listed(local_catalog) == set()


def test_a_run_that_is_killed_and_cancelled_leaks_nothing(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    kill(attempt, tmp_path, "stored-1")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
        tx.leases.release(attempt.job_id, attempt.fence)
    assert rebuild(local_catalog, local_store).snapshots == 0, "it names nothing that is about to be deleted"
    assert delete_listed(local_catalog, local_store) == 1
    assert stored(local_store) == named(local_catalog, attempt.run_id) == {run_key(attempt.run_id)}


def _expire_claims(catalog: Catalog) -> None:
    """As if the process that claimed entries had died more than CLAIM_SECONDS ago."""
    from sqlalchemy import create_engine, text

    engine = create_engine(catalog.location)
    with engine.begin() as connection:
        connection.execute(text("UPDATE deletions SET claimed_at = 0.0 WHERE claimed_at IS NOT NULL"))
    engine.dispose()
