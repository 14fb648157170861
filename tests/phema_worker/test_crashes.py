"""Whatever is killed, frozen or cut off, a job ends once, and nothing half-made is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from services.phema_worker.evaluate import evaluate
from services.phema_worker.watch import Watch
from shared.catalog import JobState
from shared.recipes.config import EvaluationRecipe, RunConfig
from shared.snapshots.layout import reconstruction_key
from shared.snapshots.model import load_model
from tests.phema_worker.conftest import laboratory
from tests.phema_worker.lab import Lab, until
from tests.phema_worker.tunnel import Tunnel, tunnel

if TYPE_CHECKING:
    from phema.ray_head import RayHead
    from tests.fixtures.postgres import PostgresServer
    from tests.fixtures.s3 import S3Server

LONG = EvaluationRecipe(num_samples=400, num_steps=8, grid=4)
SLOW = 400
"""Times each snapshot is read: a reconstruction that lasts seconds."""


def _reconstruct(lab: Lab, sigma_rel: float = 0.08) -> str:
    """A finished reconstruction of a new run."""
    run = lab.create_run("weights")
    lab.add_snapshots(run)
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [sigma_rel])
    lab.wait(job)
    return reconstruction_id


def _figures_computed_here(lab: Lab, reconstruction_id: str, recipe: EvaluationRecipe) -> dict[str, float]:
    model = load_model(lab.store.get(str(lab.reconstruction(reconstruction_id).key)))
    config = RunConfig.model_validate(model.metadata.config)
    return evaluate(model.denoiser, None, config, recipe, Watch()).figures


def test_a_killed_actor_is_replaced_and_the_job_done_once(lab: Lab) -> None:
    worker = lab.start_worker().ready()
    reconstruction_id = _reconstruct(lab)
    job, evaluation_id = lab.ask_evaluation(reconstruction_id, LONG)
    assert job is not None
    lab.wait_until_under_way(job)
    os.kill(worker.actor_pids()[0], signal.SIGKILL)
    lab.wait(job)
    assert lab.outcomes(job) == ["failed", "succeeded"]
    assert len(worker.actor_pids()) == 2
    row = lab.evaluation(evaluation_id)
    assert row.figures == pytest.approx(_figures_computed_here(lab, reconstruction_id, LONG), rel=1e-3)
    assert [key for key in lab.results() if "evaluations/" in key] == [row.pictures_key]


def test_a_killed_worker_loses_nothing_and_leaves_nothing(lab: Lab) -> None:
    run = lab.create_run()
    lab.add_snapshots(run)
    first = lab.start_worker().ready()
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12], repeat=SLOW)
    assert job is not None
    lab.wait_until_under_way(job)
    first.kill()
    assert lab.job(job).state is JobState.RUNNING
    # As if it had died between the last byte of an object and the row.
    lab.store.put(reconstruction_key(run.id, ids[0], f"{job.id}-a1"), b"of the dead")
    lab.start_worker()
    lab.wait(job)
    assert lab.outcomes(job) == ["expired", "succeeded"]
    rows = [lab.reconstruction(one) for one in ids]
    assert lab.results() == sorted(str(row.key) for row in rows)
    for row in rows:
        weights = load_model(lab.store.get(str(row.key))).denoiser.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_cancel_stops_work_under_way_and_the_worker_goes_on(lab: Lab) -> None:
    worker = lab.start_worker().ready()
    run = lab.create_run()
    lab.add_snapshots(run)
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12], repeat=SLOW)
    assert job is not None
    lab.wait_until_under_way(job)
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    assert lab.results() == []
    assert all(lab.reconstruction(one).key is None for one in ids)

    next_job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.09])
    lab.wait(next_job)
    job, evaluation_id = lab.ask_evaluation(reconstruction_id, LONG.model_copy(update={"num_samples": 100_000}))
    assert job is not None
    until(lambda: lab.job(job).message == "sampling", "the sampler")
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    assert lab.evaluation(evaluation_id).figures is None
    assert len(worker.actor_pids()) == 1


def test_sigterm_hands_the_job_back(lab: Lab) -> None:
    first = lab.start_worker(worker_actors=2).ready()
    reconstruction_id = _reconstruct(lab)
    job, _ = lab.ask_evaluation(reconstruction_id, LONG)
    assert job is not None
    lab.wait_until_under_way(job)
    assert first.stop() == 0
    released = lab.job(job)
    assert (released.state, released.attempts) == (JobState.QUEUED, 0)
    with lab.catalog.transaction() as tx:
        assert tx.targets.live(60) == []
    lab.start_worker()
    lab.wait(job)
    assert lab.outcomes(job) == ["released", "succeeded"]


def test_a_worker_that_was_frozen_drops_its_result(lab: Lab) -> None:
    frozen = lab.start_worker().ready()
    reconstruction_id = _reconstruct(lab)
    job, evaluation_id = lab.ask_evaluation(reconstruction_id, LONG)
    assert job is not None
    lab.wait_until_under_way(job)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        lab.start_worker()
        lab.wait(job)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    assert lab.outcomes(job) == ["expired", "succeeded"]
    until(lambda: frozen.lines("no longer holds job"), "the frozen worker to notice")
    winner = lab.evaluation(evaluation_id).pictures_key
    until(lambda: [key for key in lab.results() if "evaluations/" in key] == [winner], "the loser's object to go")


@pytest.fixture
def cut_off(ray_cluster: RayHead, s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[Lab, Tunnel]]:
    """A laboratory that reaches its S3 server through a tunnel."""
    client = s3_server.client()
    client.create_bucket(Bucket="phema-tunnel")
    client.close()
    with tunnel(int(s3_server.endpoint_url.rsplit(":", 1)[1])) as way:
        options = vars(s3_server.options) | {"endpoint_url": f"http://127.0.0.1:{way.port}"}
        with laboratory(tmp_path, "s3://phema-tunnel", type(s3_server.options)(**options)) as made:
            yield made, way


def test_a_store_that_is_away_for_a_while_delays_the_job(cut_off: tuple[Lab, Tunnel]) -> None:
    lab, way = cut_off
    run = lab.create_run()
    lab.add_snapshots(run)
    lab.start_worker().ready()
    way.down()
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.07])
    assert job is not None
    until(lambda: lab.job(job).error, "a failed attempt")
    assert "did not answer" in str(lab.job(job).error)
    way.up()
    lab.wait(job)
    assert lab.reconstruction(reconstruction_id).key is not None


def test_a_catalog_that_is_away_for_a_while_costs_no_work(
    ray_cluster: RayHead, postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    name = postgres_server.create_database(postgres_template)
    with tunnel(postgres_server.port) as way:
        url = postgres_server.url(name).replace(f":{postgres_server.port}/", f":{way.port}/")
        with laboratory(tmp_path, (tmp_path / "store").as_uri(), None, catalog_url=url) as lab:
            worker = lab.start_worker(lease_seconds=600).ready()
            reconstruction_id = _reconstruct(lab)
            job, evaluation_id = lab.ask_evaluation(reconstruction_id, LONG)
            assert job is not None
            lab.wait_until_under_way(job)
            way.down()
            until(lambda: worker.lines("the end of the job is not written yet"), "the work to end without a catalog")
            way.up()
            lab.wait(job)
            assert lab.outcomes(job) == ["succeeded"]
            assert lab.evaluation(evaluation_id).figures is not None
    postgres_server.drop_database(name)
