"""Submitting for a parent: needs, priorities, and who keeps a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from phema.shared.catalog import Catalog, Job, JobKind, JobState, Run
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.submissions import evaluations, reconstructions
from phema.shared.submissions.errors import InvalidFields, NotFinished
from phema.shared.submissions.evaluations import EvaluationRequest
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.reconstructions import ReconstructionRequest, SubmittedReconstructions
from phema.shared.submissions.stored_inputs import load_stored_inputs
from tests.api import seed

USER = JobOptions(max_attempts=3)
WEIGHTS = ReconstructionRequest((Profile.power(0.07), Profile.power(0.12)))


@pytest.fixture
def run(catalog: Catalog, tmp_path: Path) -> Run:
    return seed.trained(catalog, open_store((tmp_path / "store").as_uri()))


@pytest.fixture
def parent(catalog: Catalog) -> Job:
    with catalog.transaction() as tx:
        return tx.jobs.enqueue(JobKind.SWEEP, payload={}, content_key="sweep:test")[0]


def reconstruct(catalog: Catalog, run: Run, options: JobOptions) -> SubmittedReconstructions:
    with catalog.transaction(read_only=True) as tx:
        planned = reconstructions.plan(load_stored_inputs(tx, run.id), WEIGHTS)
    with catalog.transaction() as tx:
        return reconstructions.submit(tx, run.id, planned, WEIGHTS, options)


def job(catalog: Catalog, job_id: str | None) -> Job:
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(str(job_id))


def test_an_evaluation_for_a_parent_waits_for_its_weights(catalog: Catalog, run: Run, parent: Job) -> None:
    of_parent = JobOptions(max_attempts=3, parent_id=parent.id, priority=22)
    made = reconstruct(catalog, run, of_parent)
    assert made.job is not None
    assert (made.job.parent_id, made.job.priority, made.job.max_attempts) == (parent.id, 22, 3)
    request = EvaluationRequest(made.rows[0].id, {"num_samples": 64}, metrics=("frechet",))
    with catalog.transaction() as tx, pytest.raises(NotFinished, match="is queued; wait") as refused:
        evaluations.submit(tx, request, USER)
    assert refused.value.field == "reconstruction_id"
    with catalog.transaction() as tx:
        row = evaluations.submit(tx, request, of_parent, unfinished_weights=True)
    assert job(catalog, row.job_id).parent_id == parent.id
    with catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.EVALUATE], owner="test", lease_seconds=60) is None
        held = tx.leases.claim([JobKind.RECONSTRUCT], owner="test", lease_seconds=60)
        assert held is not None
        tx.leases.succeed(held.id, held.fence)
        claimed = tx.leases.claim([JobKind.EVALUATE], owner="test", lease_seconds=60)
    assert claimed is not None
    assert claimed.id == row.job_id


def test_a_user_keeps_what_a_parent_asked_for(catalog: Catalog, run: Run, parent: Job) -> None:
    made = reconstruct(catalog, run, JobOptions(max_attempts=3, parent_id=parent.id))
    again = reconstruct(catalog, run, USER)
    assert again.job is None, "the live job computes it already"
    assert [row.id for row in again.rows] == [row.id for row in made.rows]
    assert made.job is not None
    assert job(catalog, made.job.id).parent_id is None
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(parent.id)
    assert job(catalog, made.job.id).state is JobState.QUEUED


def test_a_parent_does_not_take_over_what_a_user_asked_for(catalog: Catalog, run: Run, parent: Job) -> None:
    made = reconstruct(catalog, run, USER)
    reconstruct(catalog, run, JobOptions(max_attempts=3, parent_id=parent.id))
    assert made.job is not None
    assert job(catalog, made.job.id).parent_id is None


def test_mistakes_name_their_field(catalog: Catalog, run: Run) -> None:
    with catalog.transaction() as tx:
        with pytest.raises(InvalidFields, match="reconstruction_id 'rec-0' is no reconstruction") as raised:
            evaluations.submit(tx, EvaluationRequest("rec-0", {}), USER)
        assert raised.value.field == "reconstruction_id"
        inputs = load_stored_inputs(tx, run.id)
    with pytest.raises(InvalidFields, match="num_images 1 has no snapshot") as raised:
        reconstructions.plan(inputs, ReconstructionRequest((Profile.power(0.1),), num_images=1))
    assert raised.value.problems == (("num_images", str(raised.value)),)
