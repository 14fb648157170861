"""Runs, their clock and their names."""

from __future__ import annotations

import pytest

from shared.catalog import Catalog, JobKind, JobState, NameTaken, NotFound
from tests.catalog.conftest import held


def test_a_run_comes_with_its_queued_job(catalog: Catalog) -> None:
    config = {"seed": 0, "ema_sigma_rels": [0.05, 0.1], "learning_rate": 1e-2, "a": {"z": 1, "b": None}}
    with catalog.transaction() as tx:
        run = tx.runs.create("digits", config, "hash", total_images=2**40, max_attempts=7)
    # The rows stay usable after the transaction.
    assert run.id.startswith("run-")
    assert len(run.id) == len("run-") + 12
    assert (run.name, run.config_hash, run.total_images, run.num_images) == ("digits", "hash", 2**40, 0)
    assert run.config == config
    assert list(run.config) == list(config), "keys keep their order"
    assert (run.state, run.job.kind, run.job.max_attempts) == (JobState.QUEUED, JobKind.TRAIN, 7)
    assert (run.job.payload, run.job.content_key, run.job.run_id) == ({"run_id": run.id}, f"train:{run.id}", run.id)
    assert run.job.id == run.job_id


def test_times_are_seconds_since_the_epoch(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        run = tx.runs.get(run_id)
    assert 1.7e9 < run.created_at <= run.job.created_at < 1e10


def test_names_are_taken_once(catalog: Catalog, run_id: str) -> None:
    with pytest.raises(NameTaken, match="name 'digits' is taken by another run"), catalog.transaction() as tx:
        tx.runs.create("digits", {}, "hash", total_images=1)
    with catalog.transaction() as tx:
        assert len(tx.runs.list().items) == len(tx.jobs.list().items) == 1


def test_get_by_id_or_name(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        tx.runs.create(run_id, {}, "a run named like the id of another", total_images=1)
        assert tx.runs.get("digits").id == run_id
        assert tx.runs.get(run_id).name == "digits"


@pytest.mark.parametrize("key", ["run-none", "", "\x00", "'; DROP TABLE runs; --"])
def test_unknown_run(catalog: Catalog, run_id: str, key: str) -> None:
    with pytest.raises(NotFound, match="There is no run"), catalog.transaction() as tx:
        tx.runs.get(key)


def test_the_state_of_a_run_is_that_of_its_job(catalog: Catalog, run_id: str) -> None:
    job = held(catalog)
    with catalog.transaction() as tx:
        assert tx.runs.get(run_id).state is JobState.RUNNING
        tx.jobs.fail(job.id, job.fence, "It broke.", retry=False)
        assert tx.runs.get(run_id).state is JobState.FAILED
        assert [run.id for run in tx.runs.list(state=JobState.FAILED).items] == [run_id]
        assert tx.runs.list(state=JobState.RUNNING).items == []


def test_progress_may_go_back_when_a_run_resumes(catalog: Catalog, run_id: str) -> None:
    for num_images in (128, 64, 2**41):
        with catalog.transaction() as tx:
            tx.runs.set_progress(run_id, num_images)
        with catalog.transaction() as tx:
            assert tx.runs.get(run_id).num_images == num_images
    with pytest.raises(NotFound), catalog.transaction() as tx:
        tx.runs.set_progress("run-none", 1)
