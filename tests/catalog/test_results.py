"""Reconstructions and evaluations: one row per request, and which job computes it."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import InvalidRequestError

from phema.shared.catalog import (
    Catalog,
    Evaluation,
    JobKind,
    JobState,
    NotFound,
    Reconstruction,
    Transaction,
    content_key,
)
from phema.shared.catalog.repositories.reconstructions import SUMMARY_FIELDS
from tests.catalog.conftest import held

PLAN = {
    "snapshots": [{"id": "snap-1", "num_images": 64, "sigma_rel": 0.05, "key": "k", "size": 1, "sha256": "abc"}],
    "coefficients": [0.1 + 0.2, -1e-17],
    "predicted_error": 1e-4,
    "noise_gain": 1.5,
}


@pytest.fixture(autouse=True)
def _no_training_in_the_queue(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(tx.runs.get(run_id).job_id)


def want(tx: Transaction, run_id: str, sigma_rel: float = 0.13) -> tuple[Reconstruction, bool]:
    return tx.reconstructions.find_or_create(
        run_id=run_id,
        num_images=64,
        profile={"kind": "power", "sigma_rel": sigma_rel, "gamma": 4.0},
        dtype="float32",
        plan=PLAN,
    )


def want_figures(tx: Transaction, run_id: str) -> tuple[Evaluation, bool]:
    reconstruction, _ = want(tx, run_id)
    return tx.evaluations.find_or_create(
        run_id=run_id, reconstruction_id=reconstruction.id, recipe={"seed": 0, "num_steps": 32}
    )


def enqueue(tx: Transaction, row: Reconstruction | Evaluation) -> str:
    """A job for the row, as the API asks for one."""
    if isinstance(row, Reconstruction):
        job, _ = tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={"ids": [row.id]}, content_key=row.content_key)
        tx.reconstructions.assign([row.id], job.id)
    else:
        job, _ = tx.jobs.enqueue(JobKind.EVALUATE, payload={"id": row.id}, content_key=row.content_key)
        tx.evaluations.assign([row.id], job.id)
    return job.id


@pytest.fixture(params=[want, want_figures], ids=["reconstruction", "evaluation"])
def ask_for(request: pytest.FixtureRequest):
    return request.param


def again(catalog: Catalog, run_id: str, ask_for) -> tuple[Reconstruction | Evaluation, bool]:
    with catalog.transaction() as tx:
        return ask_for(tx, run_id)


def test_a_new_question_needs_a_job_until_it_has_one(catalog: Catalog, run_id: str, ask_for) -> None:
    with catalog.transaction() as tx:
        row, needs_job = ask_for(tx, run_id)
        assert needs_job
        assert row.state is JobState.QUEUED
        job_id = enqueue(tx, row)
    same, needs_job = again(catalog, run_id, ask_for)
    assert (same.id, same.job_id, needs_job, same.state) == (row.id, job_id, False, JobState.QUEUED)


def test_its_state_follows_its_job_and_ends_with_the_result(catalog: Catalog, run_id: str, ask_for) -> None:
    with catalog.transaction() as tx:
        row, _ = ask_for(tx, run_id)
        enqueue(tx, row)
    job = held(catalog)
    same, needs_job = again(catalog, run_id, ask_for)
    assert (same.state, needs_job) == (JobState.RUNNING, False)
    with catalog.transaction() as tx:
        tx.leases.assert_fence(job.id, job.fence)
        if isinstance(row, Reconstruction):
            tx.reconstructions.complete(row.id, "weights", 100, "def")
        else:
            tx.evaluations.complete(row.id, {"frechet": 12.5}, "pictures")
        tx.leases.succeed(job.id, job.fence)
    same, needs_job = again(catalog, run_id, ask_for)
    assert (same.id, same.state, needs_job) == (row.id, JobState.SUCCEEDED, False)


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_an_unanswered_question_needs_another_job(catalog: Catalog, run_id: str, ask_for, how: str) -> None:
    with catalog.transaction() as tx:
        row, _ = ask_for(tx, run_id)
        first = enqueue(tx, row)
    if how == "fail":
        job = held(catalog)
        with catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
    else:
        with catalog.transaction() as tx:
            tx.jobs.request_cancel(first)
    with catalog.transaction() as tx:
        same, needs_job = ask_for(tx, run_id)
        assert (same.id, needs_job) == (row.id, True)
        assert same.state is (JobState.FAILED if how == "fail" else JobState.CANCELLED)
        second = enqueue(tx, same)
    assert second != first
    assert again(catalog, run_id, ask_for)[0].state is JobState.QUEUED


def test_a_result_outlives_whatever_becomes_of_later_jobs(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        row, _ = want(tx, run_id)
        job_id = enqueue(tx, row)
        tx.reconstructions.complete(row.id, "weights", 100, "def")
        tx.jobs.request_cancel(job_id)
    same, needs_job = again(catalog, run_id, want)
    assert (same.state, needs_job) == (JobState.SUCCEEDED, False)


def test_a_result_is_set_once(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        row, _ = want(tx, run_id)
        figures, _ = want_figures(tx, run_id)
        tx.reconstructions.complete(row.id, "weights", 100, "def")
        late = tx.reconstructions.complete(row.id, "other weights", 200, "fed")
        assert (late.key, late.size, late.sha256) == ("weights", 100, "def")
        tx.evaluations.complete(figures.id, {"frechet": 1.0}, "pictures")
        late_figures = tx.evaluations.complete(figures.id, {"frechet": 2.0}, None)
        assert (late_figures.figures, late_figures.pictures_key) == ({"frechet": 1.0}, "pictures")
        assert late_figures.reconstruction.key == "weights"
        job, _ = tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={}, content_key="late")
        tx.reconstructions.assign([row.id], job.id)
        assert tx.reconstructions.get(row.id).job_id is None, "finished rows take no job"


def test_plans_and_figures_keep_their_floats(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        row, _ = want(tx, run_id)
        evaluation, _ = want_figures(tx, run_id)
        tx.evaluations.complete(evaluation.id, {"frechet": math.nan, "held_out_loss": 0.1 + 0.2})
    with catalog.transaction() as tx:
        assert tx.reconstructions.get(row.id).plan == PLAN
        figures = tx.evaluations.get(evaluation.id).figures
    assert figures is not None
    assert math.isnan(figures["frechet"])
    assert figures["held_out_loss"] == 0.1 + 0.2


def test_different_questions_are_different_rows(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        rows = {want(tx, run_id, sigma_rel)[0].id for sigma_rel in (0.13, math.nextafter(0.13, 1), 0.05)}
    assert len(rows) == 3


def test_racing_askers_get_one_row_and_one_job(catalog: Catalog, run_id: str, ask_for) -> None:
    askers = 8
    start = threading.Barrier(askers)

    def race(_: int) -> tuple[str, bool]:
        start.wait()
        with catalog.transaction() as tx:
            row, needs_job = ask_for(tx, run_id)
            if needs_job:
                enqueue(tx, row)
            return row.id, needs_job

    with ThreadPoolExecutor(askers) as pool:
        answers = list(pool.map(race, range(askers)))
    assert len({row_id for row_id, _ in answers}) == 1
    assert sum(needs_job for _, needs_job in answers) == 1


def test_a_question_about_a_run_that_never_was(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="There is no run 'run-none'"), catalog.transaction() as tx:
        want(tx, "run-none")


def test_rows_by_id_keep_the_order_asked_for(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        ids = [want(tx, run_id, sigma_rel)[0].id for sigma_rel in (0.05, 0.1, 0.15)]
        assert [row.id for row in tx.reconstructions.by_ids(reversed(ids))] == ids[::-1]
        assert tx.reconstructions.by_ids([]) == []
        with pytest.raises(NotFound, match="There is no reconstruction 'rec-none'"):
            tx.reconstructions.by_ids([ids[0], "rec-none"])
        with pytest.raises(NotFound, match="There is no evaluation 'eval-none'"):
            tx.evaluations.get("eval-none")


def test_summaries_tell_what_matters_of_plans_without_loading_them(catalog: Catalog, run_id: str) -> None:
    said = {"profile_error": None, "rounding_error": 1e-300, "predicted_error": 0.1 + 0.2, "noise_gain": 5e-324}
    plans = [PLAN | said, PLAN | said | {"regularize": False, "advice": 'a "poor" fit – é'}]
    with catalog.transaction() as tx:
        for i, plan in enumerate(plans):
            question = {"profile": {"kind": "power", "sigma_rel": 0.1 + i / 10}, "dtype": "float32"}
            tx.reconstructions.find_or_create(run_id=run_id, num_images=64, plan=plan, **question)
    with catalog.transaction(read_only=True) as tx:
        latest = tx.reconstructions.summaries(run_id, limit=1)
        (summary,) = tx.reconstructions.summaries(run_id, after=latest.next_cursor, limit=1).items
        assert latest.items[0].plan_fields == {name: plans[1][name] for name in SUMMARY_FIELDS}
        assert summary.plan_fields == said | {"regularize": None, "advice": None}
        with pytest.raises(InvalidRequestError, match="plan"):
            summary.row.plan.keys()


def test_finished_reconstructions_are_found_behind_newer_ones_that_are_not(catalog: Catalog, run_id: str) -> None:
    def add(num_images: int, sigma_rel: float, *, done: bool) -> str:
        question = {"profile": {"kind": "power", "sigma_rel": sigma_rel}, "dtype": "float32", "plan": PLAN}
        row, _ = tx.reconstructions.find_or_create(run_id=run_id, num_images=num_images, **question)
        if done:
            tx.reconstructions.complete(row.id, f"{row.id}.safetensors", 1, "0" * 64)
        return row.id

    with catalog.transaction() as tx:
        old = [add(64, width, done=True) for width in (0.05, 0.1, 0.15)]
        late = add(128, 0.05, done=True)
        for i in range(5):
            add(192, 0.05 + i / 100, done=False)
        newer = add(64, 0.2, done=True)
    with catalog.transaction(read_only=True) as tx:
        assert [row.id for row in tx.reconstructions.finished(run_id, None, 2)] == [late]
        assert [row.id for row in tx.reconstructions.finished(run_id, 64, 3)] == [newer, old[2], old[1]]
        assert tx.reconstructions.finished(run_id, 192, 3) == []
        assert tx.reconstructions.finished("run-none", None, 3) == []


def test_content_keys_ignore_the_order_of_keys_only() -> None:
    assert content_key("k", {"a": 1, "b": [0.1, 2]}) == content_key("k", {"b": [0.1, 2], "a": 1})
    assert content_key("k", {"a": [1, 2]}) != content_key("k", {"a": [2, 1]})
    assert content_key("k", 0.1) != content_key("k", math.nextafter(0.1, 1))


@pytest.mark.parametrize(
    ("wanted", "found"), [((1e-4, 1e-3), True), ((0.99e-4, 1e-3), True), ((1e-5, 1e-3), False), ((1e-3, 1e-4), False)]
)
def test_as_good_means_every_part(catalog: Catalog, run_id: str, wanted: tuple[float, float], found: bool) -> None:
    """Errors are compared part by part: the profile with the profile, each pattern with itself."""
    question = {"run_id": run_id, "num_images": 64, "profile": {"kind": "per_tensor"}, "dtype": "float32"}
    tensors = [{"pattern": "*emb*", "coefficients": [1.0, 0.0], "predicted_error": 1e-3}]
    with catalog.transaction() as tx:
        row, _ = tx.reconstructions.find_or_create(**question, plan=PLAN | {"tensors": tensors})
        tx.reconstructions.complete(row.id, "k", 1, "0" * 64)
        same = tx.reconstructions.find_equivalent(**question, regularize=True, predicted_errors=wanted)
    assert (same is not None) == found
