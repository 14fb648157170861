"""Runs, their clock and their names."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from phema.shared.catalog import Catalog, JobKind, JobState, NameTaken, NotFound
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
        tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
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


class TestResume:
    def end(self, catalog: Catalog, state: JobState) -> None:
        job = held(catalog)
        with catalog.transaction() as tx:
            if state is JobState.SUCCEEDED:
                tx.leases.succeed(job.id, job.fence)
            elif state is JobState.FAILED:
                tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
            else:
                tx.leases.cancelled(job.id, job.fence)

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
    def test_an_unfinished_run_gets_another_job(self, catalog: Catalog, run_id: str, state: JobState) -> None:
        self.end(catalog, state)
        with catalog.transaction() as tx:
            first = tx.runs.get(run_id).job_id
            run = tx.run_control.resume(run_id, max_attempts=3)
            assert (run.state, run.job.payload, run.job.max_attempts) == (JobState.QUEUED, {"run_id": run_id}, 3)
            assert run.job_id != first
            assert tx.jobs.get(first).state is state, "what has ended stays as it was"
            assert tx.run_control.resume(run_id).job_id == run.job_id, "asked twice"
        assert held(catalog).id == run.job_id

    def test_a_run_that_trains_or_is_done_stays_as_it_is(self, catalog: Catalog, run_id: str) -> None:
        with catalog.transaction() as tx:
            job_id = tx.runs.get(run_id).job_id
            assert tx.run_control.resume(run_id).job_id == job_id
        self.end(catalog, JobState.SUCCEEDED)
        with catalog.transaction() as tx:
            assert tx.run_control.resume(run_id).job_id == job_id

    def test_asked_at_once(self, catalog: Catalog, run_id: str) -> None:
        self.end(catalog, JobState.FAILED)
        start = threading.Barrier(6)

        def resume(_: int) -> str:
            start.wait()
            with catalog.transaction() as tx:
                return tx.run_control.resume(run_id).job_id

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(resume, range(6)))) == 1
        with catalog.transaction() as tx:
            assert len(tx.jobs.list(run_id=run_id).items) == 2


class TestRestore:
    def restore(self, catalog: Catalog, num_images: int, name: str = "found", run_id: str = "run-0123456789ab") -> bool:
        with catalog.transaction() as tx:
            return tx.runs.restore(
                run_id, name=name, config={"seed": 1}, config_hash="hash", total_images=100, num_images=num_images
            )

    def test_a_finished_run(self, catalog: Catalog) -> None:
        assert self.restore(catalog, 100)
        assert not self.restore(catalog, 100), "it is there already"
        with catalog.transaction() as tx:
            run = tx.runs.get("found")
        assert (run.id, run.state, run.num_images, run.config) == (
            "run-0123456789ab",
            JobState.SUCCEEDED,
            100,
            {"seed": 1},
        )
        assert run.job.error is None

    def test_an_unfinished_run_waits_for_somebody_to_resume_it(self, catalog: Catalog) -> None:
        assert self.restore(catalog, 40)
        with catalog.transaction() as tx:
            run = tx.runs.get("found")
            assert (run.state, run.job.progress) == (JobState.FAILED, 0.4)
            assert run.job.error == "Found in the store at 40 of 100 images; resume it."
            assert tx.leases.claim(list(JobKind), owner="worker", lease_seconds=60) is None
            assert tx.run_control.resume(run.id).state is JobState.QUEUED

    def test_a_name_taken_meanwhile(self, catalog: Catalog, run_id: str) -> None:
        with pytest.raises(NameTaken, match="name 'digits' is taken"):
            self.restore(catalog, 40, name="digits")
