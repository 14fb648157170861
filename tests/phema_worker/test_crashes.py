"""Processes are killed, suspended or cut off: each job ends once, and no unfinished objects are left.

Each test takes the workers that the one before left alive, so that a replacement serves on.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch

from phema.shared.catalog import JobState
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.files.network_loading import load_model
from tests.phema_worker.conftest import Servers
from tests.phema_worker.evaluating import Evaluated, evaluate
from tests.phema_worker.lab import Lab, until

SLOW = 400
"""Times each snapshot is read: a reconstruction that lasts seconds."""
ENDLESS = {"num_samples": 2_000, "num_steps": 1_000}
"""Of an evaluation that does not end before it is cancelled."""


def _long(seed: int, **changes: int) -> EvaluationRecipe:
    """A recipe whose two parts keep an actor busy for seconds; another seed is another question."""
    return EvaluationRecipe(**{"num_samples": 1024, "num_steps": 24, "grid": 2, "seed": seed, **changes})


def _computed_here(lab: Lab, reconstruction_id: str, recipe: EvaluationRecipe) -> Evaluated:
    model = load_model(lab.store.get(str(lab.reconstruction(reconstruction_id).key)))
    config = RunConfig.model_validate(model.metadata.config)
    return evaluate(model.denoiser, None, config, recipe)


def test_a_killed_actor_is_replaced_and_the_job_done_once(local_lab: Lab) -> None:
    lab = local_lab
    worker = lab.worker()
    reconstruction_id, recipe = lab.weights(), _long(seed=1)
    job, evaluation_id = lab.ask_evaluation(reconstruction_id, recipe)
    assert job is not None
    part = lab.part_under_way(job)
    actors = len(worker.actor_pids())
    os.kill(worker.actor_pids()[-1], signal.SIGKILL)
    lab.wait(job)
    assert lab.outcomes(part) == ["failed", "succeeded"]
    assert [lab.outcomes(other) for other in lab.parts(job) if other.id != part.id] == [["succeeded"]] * 2
    assert lab.outcomes(job) == ["released", "succeeded"], "it waited for its parts"
    assert len(worker.actor_pids()) == actors + 1
    row = lab.evaluation(evaluation_id)
    here = _computed_here(lab, reconstruction_id, recipe)
    assert row.figures == pytest.approx(here.figures, rel=1e-6)
    assert lab.store.get(str(row.pictures_key)) == here.png, "bit for bit, in any process"
    assert lab.results(evaluation_id) == [row.pictures_key]


def test_a_worker_that_was_frozen_drops_its_result(local_lab: Lab) -> None:
    lab = local_lab
    frozen, reconstruction_id = lab.worker(), lab.weights()
    job, evaluation_id = lab.ask_evaluation(reconstruction_id, _long(seed=4))
    assert job is not None
    part = lab.part_under_way(job)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        lab.start_worker()
        lab.wait(job)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    assert lab.outcomes(part) == ["expired", "succeeded"]
    until(lambda: frozen.lines("no longer holds job"), "the frozen worker to notice")
    with lab.catalog.transaction(read_only=True) as tx:
        result = tx.sample_parts.get(part.payload["part_id"]).result
    assert result is not None
    until(lambda: lab.results(part.payload["part_id"]) == [result["key"]], "the loser's object to go")
    assert lab.evaluation(evaluation_id).figures is not None


def test_a_killed_worker_loses_nothing_and_leaves_nothing(local_lab: Lab) -> None:
    lab = local_lab
    lab.warm_workers(2)
    run = lab.create_run()
    lab.add_snapshots(run)
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12], repeat=SLOW)
    assert job is not None
    lab.wait_until_under_way(job)
    lab.holder(job).kill()
    assert lab.job(job).state is JobState.RUNNING
    lab.wait(job)
    assert lab.outcomes(job) == ["expired", "succeeded"]
    rows = [lab.reconstruction(one) for one in ids]
    assert lab.results(run.id) == sorted(str(row.key) for row in rows)
    assert lab.unfinished() == []
    for row in rows:
        weights = load_model(lab.store.get(str(row.key))).denoiser.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_cancel_stops_work_under_way_and_the_worker_goes_on(local_lab: Lab) -> None:
    lab = local_lab
    worker, run = lab.worker(), lab.create_run()
    lab.add_snapshots(run)
    actors = worker.actor_pids()
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12], repeat=3 * SLOW)
    assert job is not None
    lab.wait_until_under_way(job)
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    assert lab.results(run.id) == []
    until(lambda: lab.unfinished() == [], "what it had written to go")
    assert all(lab.reconstruction(one).key is None for one in ids)

    job, evaluation_id = lab.ask_evaluation(lab.weights(), _long(seed=2, **ENDLESS))
    assert job is not None
    part = lab.part_under_way(job)
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    lab.wait(part, JobState.CANCELLED)
    assert {lab.job(one).state for one in lab.parts(job)} <= {JobState.CANCELLED, JobState.SUCCEEDED}
    assert lab.evaluation(evaluation_id).figures is None
    assert worker.actor_pids()[: len(actors)] == actors, "no actor had to be replaced"


def test_sigterm_hands_the_job_back(local_lab: Lab) -> None:
    lab = local_lab
    lab.warm_workers(2)
    job, _ = lab.ask_evaluation(lab.weights(), _long(seed=3, **ENDLESS))
    assert job is not None
    part = lab.part_under_way(job)
    holder = lab.holder(part)
    assert holder.stop() == 0
    assert lab.outcomes(part)[0] == "released"
    left = lab.job(part)
    assert not left.state.terminal
    assert left.attempts == (left.state is JobState.RUNNING), "what was released does not count"
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    with lab.catalog.transaction() as tx:
        assert holder.address not in [target.address for target in tx.scrape_targets.live(3600)]


def test_a_store_that_is_away_for_a_while_delays_the_job(servers: Servers) -> None:
    lab = servers.lab
    lab.worker()
    run = lab.create_run()
    lab.add_snapshots(run)
    servers.to_store.down()
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.07])
    assert job is not None
    until(lambda: lab.job(job).error, "a failed attempt")
    assert "did not answer" in str(lab.job(job).error)
    servers.to_store.up()
    lab.wait(job)
    assert lab.reconstruction(reconstruction_id).key is not None


def test_a_catalog_that_is_away_for_a_while_costs_no_work(servers: Servers) -> None:
    lab = servers.lab
    worker = lab.worker()
    job, evaluation_id = lab.ask_evaluation(lab.weights(), _long(seed=5))
    assert job is not None
    part = lab.part_under_way(job)
    servers.to_catalog.down()
    until(lambda: worker.lines("the end of the job waits for the catalog"), "the work to end without a catalog")
    servers.to_catalog.up()
    lab.wait(job)
    assert lab.outcomes(part) == ["succeeded"]
    assert lab.evaluation(evaluation_id).figures is not None
