"""Jobs from request to result: a real worker process, its Ray actor, the catalog, a local store and S3."""

from __future__ import annotations

import io
import re
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from phema.services.api.bases import service as bases
from phema.services.api.bases.schemas import BasisCreate
from phema.shared.catalog import Job, JobKind, JobState
from phema.shared.metrics.registry import METRICS
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.snapshots.errors import ObjectMissing
from phema.shared.snapshots.files.network_loading import load_model
from phema.shared.snapshots.files.snapshot_file import load_tensors
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.verification import verify
from phema.shared.submissions.stored_inputs import load_stored_inputs
from tests.phema_worker.conftest import only
from tests.phema_worker.lab import STORED, TIMES, Lab, tiny_config, until

RECIPE = EvaluationRecipe(num_samples=64, num_steps=4, grid=10)


def test_reconstructions_are_the_planned_sums(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    states = lab.add_snapshots(run)
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12, 0.2])
    lab.wait(job)
    profiles = [(time, sigma_rel) for time in TIMES for sigma_rel in STORED]
    stored = [StoredSnapshot(str(i), t, Profile.power(s), "", 0, "") for i, (t, s) in enumerate(profiles)]
    planned = plan(stored, [Profile.power(s) for s in (0.07, 0.12, 0.2)])
    used = [states[int(snapshot.id)] for snapshot in planned.snapshots]
    for reconstruction_id, output in zip(ids, planned.outputs, strict=True):
        row = lab.reconstruction(reconstruction_id)
        assert row.key is not None
        tensors = load_tensors(lab.store.get(row.key))
        for name, found in tensors.items():
            columns = np.stack([state[name].numpy().astype(np.float64) for state in used])
            wanted = columns[-1] if "fourier" in name else np.tensordot(output.coefficients, columns, axes=1)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=2e-6, err_msg=name)


@only("local")
def test_a_reconstruction_says_what_it_was_made_of(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.08], dtype="float16")
    lab.wait(job)
    row = lab.reconstruction(reconstruction_id)
    info = lab.store.head(str(row.key))
    assert info is not None
    assert info.size == row.size
    model = load_model(lab.store.get(str(row.key)))
    assert model.metadata.kind == "reconstruction"
    assert (model.metadata.run_id, model.metadata.num_images) == (run.id, TIMES[-1])
    assert (model.metadata.profile.sigma_rel, model.metadata.dtype) == (0.08, "float16")
    lineage = model.metadata.lineage
    assert lineage is not None
    assert lineage["coefficients"] == row.plan["coefficients"]
    assert [s["sha256"] for s in lineage["snapshots"]] == [s["sha256"] for s in row.plan["snapshots"]]


@only("local")
def test_equal_questions_are_computed_once(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    job, ids = lab.ask_reconstructions(run, [0.06])
    again, same_ids = lab.ask_reconstructions(run, [0.06])
    assert ids == same_ids
    assert again is None or (job is not None and again.id == job.id)
    lab.wait(job)
    assert lab.ask_reconstructions(run, [0.06]) == (None, ids)
    wider, wider_ids = lab.ask_reconstructions(run, [0.06, 0.09])
    before = lab.reconstruction(ids[0])
    assert lab.wait(wider).payload["reconstruction_ids"] == wider_ids[1:]
    assert lab.reconstruction(ids[0]).key == before.key
    assert len(lab.results(run.id)) == 2


def test_evaluation_gives_figures_and_a_picture(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.08])
    lab.wait(job)
    evaluate, evaluation_id = lab.ask_evaluation(reconstruction_id, RECIPE)
    done = lab.wait(evaluate)
    row = lab.evaluation(evaluation_id)
    assert row.figures is not None
    assert set(row.figures) == {figure.name for name in RECIPE.metrics for figure in METRICS[name].figures}
    assert all(np.isfinite(value) and value > 0 for value in row.figures.values())
    assert done.result is not None
    assert done.result["num_sampled"] == 164
    picture = Image.open(io.BytesIO(lab.store.get(str(row.pictures_key))))
    assert picture.size == (502, 502)
    assert lab.ask_evaluation(reconstruction_id, RECIPE) == (None, evaluation_id)


def test_guided_evaluation_reads_the_guide(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    job, (main, guide) = lab.ask_reconstructions(run, [0.08, 0.2])
    lab.wait(job)
    plain = RECIPE.model_copy(update={"metrics": ("frechet",), "grid": 2})
    recipes = [plain, plain.model_copy(update={"guide_id": guide, "guidance": 3.0})]
    figures = []
    for recipe in recipes:
        evaluate, evaluation_id = lab.ask_evaluation(main, recipe)
        lab.wait(evaluate)
        figures.append(lab.evaluation(evaluation_id).figures)
    assert figures[0] != figures[1]


@only("local")
def test_a_guide_of_another_kind_fails_in_one_sentence(working_lab: Lab) -> None:
    lab = working_lab
    run, other = (
        lab.create_run(),
        lab.create_run(tiny_config(network={"model_channels": 16, "channels_per_head": 16, "label_dim": 3})),
    )
    ids = []
    for each in (run, other):
        lab.add_snapshots(each, times=TIMES[:1])
        job, found = lab.ask_reconstructions(each, [0.08])
        lab.wait(job)
        ids += found
    recipe = RECIPE.model_copy(update={"guide_id": ids[1], "guidance": 2.0})
    evaluate, _ = lab.ask_evaluation(ids[0], recipe)
    failed = lab.wait(evaluate, JobState.FAILED)
    assert failed.attempts == 1
    assert str(failed.error).startswith("the guide has label_dim 3")


def test_a_truncated_snapshot_fails_in_one_sentence(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    with lab.catalog.transaction() as tx:
        victim = tx.snapshots.list(run.id)[3]
    whole = lab.store.get(victim.key)
    lab.store.delete(victim.key)
    lab.store.put(victim.key, whole[:-1000])
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12])
    failed = lab.wait(job, JobState.FAILED)
    assert failed.attempts == 1
    assert victim.key in str(failed.error)
    assert "\n" not in str(failed.error)
    assert str(victim.size) in str(failed.error)
    assert not lab.results(run.id)
    assert all(lab.reconstruction(one).key is None for one in ids)


def test_a_missing_snapshot_fails_in_one_sentence(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    with lab.catalog.transaction() as tx:
        victim = tx.snapshots.list(run.id)[2]
    lab.store.delete(victim.key)
    with pytest.raises(ObjectMissing):
        lab.store.get(victim.key)
    job, _ = lab.ask_reconstructions(run, [0.07])
    failed = lab.wait(job, JobState.FAILED)
    assert failed.attempts == 1
    assert str(failed.error).startswith(f"damaged-object: object {victim.key} does not exist")


def test_changed_weights_are_not_evaluated(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    states = lab.add_snapshots(run)
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.07])
    lab.wait(job)
    key = str(lab.reconstruction(reconstruction_id).key)
    data = bytearray(lab.store.get(key))
    data[-5] ^= 1
    lab.store.delete(key)
    lab.store.put(key, bytes(data))
    evaluate, _ = lab.ask_evaluation(reconstruction_id, RECIPE)
    error = str(lab.wait(evaluate, JobState.FAILED).error)
    assert error.startswith(f"damaged-object: object {key} ")
    assert states


@only("local")
def test_weights_that_are_not_finite_fail_in_one_sentence(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    state = lab.add_snapshots(run, times=TIMES[:1])[0]
    state["unet.out_gain"] = torch.tensor(float("nan"))
    for sigma_rel in STORED:
        lab.add_snapshot(run, TIMES[1], sigma_rel, state)
    job, (reconstruction_id,) = lab.ask_reconstructions(run, [0.05])
    lab.wait(job)
    evaluate, _ = lab.ask_evaluation(reconstruction_id, RECIPE)
    failed = lab.wait(evaluate, JobState.FAILED)
    assert failed.attempts == 1
    assert "not finite" in str(failed.error)


@only("local")
def test_finished_outputs_are_not_computed_again(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    job, ids = lab.ask_reconstructions(run, [0.07, 0.12], finished=1)
    lab.wait(job)
    assert lab.reconstruction(ids[0]).key == f"runs/elsewhere-{ids[0]}"
    assert lab.results(run.id) == [lab.reconstruction(ids[1]).key]
    job, _ = lab.ask_reconstructions(run, [0.2], finished=1)
    lab.wait(job)
    assert len(lab.results(run.id)) == 1


@only("local")
def test_weights_that_do_not_exist_yet_fail_in_one_sentence(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    with lab.catalog.transaction() as tx:
        stored = tx.snapshots.list(run.id)[-1]
        plan = {
            "snapshots": [{k: getattr(stored, k) for k in ("id", "num_images", "profile", "key", "size", "sha256")}],
            "coefficients": [1.0],
            "profile_error": 0.0,
            "rounding_error": 0.0,
            "predicted_error": 0.0,
            "noise_gain": 1.0,
        }
        row, _ = tx.reconstructions.find_or_create(
            run_id=run.id, num_images=stored.num_images, profile=stored.profile, dtype="float32", plan=plan
        )
    job, _ = lab.ask_evaluation(row.id, RECIPE)
    failed = lab.wait(job, JobState.FAILED)
    assert failed.error == f"reconstruction {row.id} has no weights yet; evaluate it when it has succeeded"


def test_a_run_is_compacted_and_its_snapshots_deleted(working_lab: Lab) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run)
    with lab.catalog.transaction(read_only=True) as tx:
        stored = load_stored_inputs(tx, run.id)
    planned = bases.plan(stored, BasisCreate(tolerance=1e-3))
    with lab.catalog.transaction() as tx:
        accepted = bases.create(tx, run.id, planned, max_attempts=5).answer.model_dump()
    with lab.catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(accepted["job"]["id"])
    lab.wait(job)
    with lab.catalog.transaction(read_only=True) as tx:
        (basis,) = tx.bases.finished(run.id)
        early = [s for s in tx.snapshots.list(run.id) if s.num_images < TIMES[-1]]
    for vector in basis.vectors or ():
        verify(lab.store, vector["key"], size=vector["size"], sha256=vector["sha256"])
    with lab.catalog.transaction() as tx:
        tx.snapshots.retire(s.id for s in early)
        job, _ = tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key=f"retain:{run.id}", run_id=run.id)
    done = lab.wait(job)
    assert done.result is not None
    assert done.result["snapshots_removed"] == len(early)
    assert [lab.store.head(s.key) for s in early] == [None] * len(early)
    with lab.catalog.transaction(read_only=True) as tx:
        assert tx.snapshots.times(run.id) == [TIMES[-1]]
        assert tx.snapshots.retired(run.id) == []
        left = load_stored_inputs(tx, run.id)
    planned_now = plan(left.snapshots, [Profile.power(0.13)], bases=left.bases, probes=left.probes)
    assert planned_now.basis_id == basis.id


@only("local")
def test_metrics_are_announced_and_served(working_lab: Lab) -> None:
    lab = working_lab
    address = lab.worker().address

    def announced() -> bool:
        with lab.catalog.transaction(read_only=True) as tx:
            return any((target.kind, target.address) == ("worker", address) for target in tx.scrape_targets.live(5))

    until(announced, "the target")
    run = lab.create_run()
    lab.add_snapshots(run, times=TIMES[:1])
    lab.wait(lab.ask_reconstructions(run, [0.05])[0])

    def served() -> bool:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            text = answer.read().decode()
        counted = re.search(r'^phema_job_seconds_count\{kind="reconstruct",state="succeeded"\} (.+)$', text, re.M)
        assert counted is not None
        return float(counted[1]) > 0 and "phema_reconstruction_read_bytes_total" in text

    until(served, "the job's metrics")  # counted after its end is written


def test_further_actors_are_there_only_while_they_have_work(local_lab: Lab) -> None:
    """Two actors share the parts of one evaluation, and a worker at rest holds the CPUs of one actor."""
    local_lab.worker()
    weights = local_lab.weights()
    local_lab.warm_workers(0)
    worker = local_lab.start_worker(worker_actors=2).ready()
    assert len(worker.actor_pids()) == 1
    long = EvaluationRecipe(num_samples=10_000, num_steps=64, seed=901)
    job, _ = local_lab.ask_evaluation(weights, long)
    assert job is not None

    def running() -> list[Job]:
        return [part for part in local_lab.parts(job) if part.state is JobState.RUNNING]

    until(lambda: len(running()) == 2, "two parts at once")
    assert len(set(worker.actor_pids())) == 2
    with local_lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    local_lab.wait(job, JobState.CANCELLED)
    until(lambda: not running(), "the parts under way to stop")
    assert worker.stop() == 0, "other tests count the actors of a worker that has one"
