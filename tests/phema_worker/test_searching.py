"""Searches advanced step by step: the coordinator is real, the jobs of points are ended by the test at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phema.services.phema_worker.coordination.coordinator import STEPS
from phema.shared.catalog import Catalog, JobKind, JobState, Study, Transaction
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.submissions import searches
from phema.shared.submissions.job_options import JobOptions
from tests.fixtures.catalog import only
from tests.phema_worker.test_coordination import OPTIONS, Bench, bench_of
from tests.studies.simulated_figures import SimulatedFigures, steep

BUDGET = 1000
FIGURES = SimulatedFigures(steep)


@pytest.fixture
def bench(catalog: Catalog, tmp_path: Path) -> Bench:
    return bench_of(catalog, tmp_path)


def ask(bench: Bench, options: JobOptions = OPTIONS, **fields: Any) -> Study:
    request = {"sigma_rel": [0.02, 0.25], "figure": "frechet", "budget": BUDGET, **fields}
    with bench.catalog.transaction() as tx:
        prepared = searches.prepare(tx, bench.run.name, SearchSpec.model_validate(request))
        return searches.submit(tx, prepared, options)


def finish_children(bench: Bench, failing: float | None = None, figures: SimulatedFigures = FIGURES) -> int:
    """End every job that is due, with simulated figures. Returns the number of evaluations."""
    count = 0
    while (job := bench.claim(JobKind.RECONSTRUCT, JobKind.EVALUATE)) is not None:
        with bench.catalog.transaction() as tx:
            if job.kind is JobKind.RECONSTRUCT:
                for identity in job.payload["reconstruction_ids"]:
                    tx.reconstructions.complete(identity, f"weights/{identity}", 1, "0" * 64)
                tx.leases.succeed(job.id, job.fence)
                continue
            count += 1
            if failing == tx.evaluations.get(job.payload["evaluation_id"]).reconstruction.sigma_rel:
                tx.leases.fail(job.id, job.fence, "the figures are not finite", retry=False)
                continue
            _complete(tx, job.payload["evaluation_id"], figures)
            tx.leases.succeed(job.id, job.fence)
    return count


def _complete(tx: Transaction, evaluation_id: str, figures: SimulatedFigures) -> None:
    row = tx.evaluations.get(evaluation_id)
    guide = row.recipe["guide_id"]
    point = [row.reconstruction.sigma_rel or 0.0, row.recipe["guidance"]] if guide else [row.reconstruction.sigma_rel]
    found = figures(tuple(point), row.recipe["num_samples"], row.recipe["seed"])
    tx.evaluations.complete(
        row.id,
        {"frechet": found.value},
        "pictures",
        errors={"frechet": found.standard_error or 0.0},
        replicates={"frechet": list(found.replicates)},
    )


def finish(bench: Bench, **options: Any) -> int:
    """Advance everything to its end. Returns the number of evaluations that were computed."""
    count = 0
    while True:
        stepped = bench.step()
        done = finish_children(bench, **options)
        count += done
        if stepped is None and not done:
            return count


def test_a_search_finds_the_best_length_and_says_how_sure_it_is(bench: Bench) -> None:
    study = ask(bench)
    count = finish(bench)
    study = bench.study(study)
    assert study.state is JobState.SUCCEEDED
    assert study.result is not None
    assert steep(study.result["point"]["sigma_rel"]) < 2.05
    low, high = study.result["interval"]["sigma_rel"]
    assert low < 0.06 < high
    assert study.result["pictures"] <= BUDGET
    sentence = study.result["sentence"]
    assert sentence.startswith(f"frechet is best at sigma_rel {study.result['point']['sigma_rel']:g} ({low:g} to ")
    points = bench.points(study)
    assert len(points) == count
    assert [point.stage for point in points] == sorted(point.stage for point in points)
    assert {point.evaluation.recipe["metrics"][0] for point in points if point.evaluation} == {"frechet"}
    assert study.job is not None
    assert study.job.result is not None
    assert study.job.result["points"] == count


@only("sqlite")
def test_a_step_waits_for_all_its_points_and_reports_pictures(bench: Bench) -> None:
    study = ask(bench)
    assert bench.step() is JobState.QUEUED
    first = bench.points(study)
    assert {point.stage for point in first} == {0}
    assert bench.count(JobKind.RECONSTRUCT) == 1, "all weights of one step in one pass"
    assert bench.claim(JobKind.SEARCH) is None, "the search waits for its points"
    job = bench.study(study).job
    assert job is not None
    assert job.message == f"step 1: 0 of {len(first)} points; 0 of 1,000 pictures"
    finish_children(bench)
    assert bench.step() is JobState.QUEUED
    job = bench.study(study).job
    assert job is not None
    assert 0.2 < job.progress < 0.4
    assert {point.stage for point in bench.points(study)} == {0, 1}


def test_an_equal_search_computes_nothing(bench: Bench) -> None:
    study = ask(bench)
    finish(bench)
    assert ask(bench).id == study.id
    assert finish(bench) == 0
    assert ask(bench, seed=5000).id != study.id


@only("sqlite")
def test_a_point_that_fails_does_not_fail_the_search(bench: Bench) -> None:
    study = ask(bench)
    finish(bench, failing=0.25)
    study = bench.study(study)
    assert study.state is JobState.SUCCEEDED
    assert study.job is not None
    assert study.job.result is not None
    assert study.job.result["failed"] >= 1
    assert {point.error for point in bench.points(study)} == {None, "the figures are not finite"}


@only("sqlite")
def test_a_search_without_figures_fails_with_the_first_error(bench: Bench) -> None:
    study = ask(bench)
    bench.step()
    while (job := bench.claim(JobKind.RECONSTRUCT, JobKind.EVALUATE)) is not None:
        with bench.catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "the disk is full", retry=False)
    finish(bench)
    job = bench.study(study).job
    assert job is not None
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.startswith("only 0 of ")
    assert "the disk is full" in job.error


@only("sqlite")
def test_guidance_is_searched_with_one_reconstruction_of_the_guide(bench: Bench) -> None:
    figures = SimulatedFigures(lambda sigma_rel, guidance=1.0: steep(sigma_rel) + (guidance - 2) ** 2)
    study = ask(bench, guidance=[1.5, 3], guide={"sigma_rel": 0.2}, budget=2000)
    finish(bench, figures=figures)
    study = bench.study(study)
    assert study.result is not None
    assert set(study.result["point"]) == {"sigma_rel", "guidance"}
    rows = bench.points(study)
    assert len({row.guide_reconstruction_id for row in rows}) == 1
    assert all(row.evaluation and row.evaluation.recipe["guide_id"] == row.guide_reconstruction_id for row in rows)


class _Died(BaseException):
    """Ends a step as a signal would: nothing after it runs."""


@only("sqlite")
def test_a_search_killed_anywhere_goes_on_to_the_same_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process dies before each transaction of each step in turn; another one continues."""
    undisturbed = ask(bench)
    finish(bench)
    expected = bench.study(undisturbed).result
    transaction = Catalog.transaction
    # Other evaluations with the same simulated figures.
    disturbed = ask(bench, JobOptions(max_attempts=100), num_steps=33)
    deaths = 0
    commits = 0
    while not bench.study(disturbed).state.terminal:
        left = commits
        job = bench.claim(*STEPS)
        assert job is not None
        with monkeypatch.context() as patched:

            def counted(self: Catalog, **options: Any) -> Any:
                nonlocal left
                if not options.get("read_only"):
                    if left == 0:
                        raise _Died
                    left -= 1
                return transaction(self, **options)

            patched.setattr(Catalog, "transaction", counted)
            try:
                bench.coordinator._work(job)
                commits = 0  # this step is done; the next one is killed from its first transaction on
            except _Died:
                deaths += 1
                commits += 1
        with bench.catalog.transaction() as tx:
            if left == 0 and tx.jobs.get(job.id).state is JobState.RUNNING:
                tx.leases.heartbeat(job.id, job.fence, lease_seconds=-1)
                tx.leases.expire(STEPS)
        finish_children(bench)
    found = bench.study(disturbed).result
    assert deaths > 10
    assert found == expected
    with bench.catalog.transaction(read_only=True) as tx:
        jobs = [job.content_key for job in tx.jobs.list(kind=JobKind.EVALUATE, limit=500).items]
    assert len(jobs) == len(set(jobs)), "no point was evaluated twice"
