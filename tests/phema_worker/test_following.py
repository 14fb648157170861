"""Continuous evaluations advanced step by step; the test trains the run and ends the jobs of points at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect

from phema.services.api.runs import service as runs
from phema.services.api.runs.progress_curve import progress_curve
from phema.services.phema_worker.coordination import follow
from phema.services.phema_worker.coordination.coordinator import end_step
from phema.services.phema_worker.coordination.steps import Finished, Step
from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.shared.catalog import Catalog, Evaluation, Job, JobKind, JobState, Run, Study, StudyKind, Transaction
from phema.shared.recipes.presets import resolve
from phema.shared.studies.progress_curve import CurvePoint
from phema.shared.submissions import continuous_evaluations
from phema.shared.submissions.job_options import JobOptions
from tests.api import seed
from tests.fixtures.catalog import only
from tests.phema_worker.test_coordination import Bench, bench_of

FOLLOWED = {"every_snapshots": 2, "num_samples": 64, "sigma_rel": 0.1, "factor": 1.4}


@pytest.fixture
def bench(catalog: Catalog, tmp_path: Path) -> Bench:
    return bench_of(catalog, tmp_path)


def start(bench: Bench, **evaluation: object) -> Run:
    """A run that is evaluated while it trains; the test holds its job."""
    config = resolve("digits-tiny", {"evaluation": FOLLOWED | evaluation})
    with bench.catalog.transaction() as tx:
        run = tx.runs.create("followed", config.model_dump(mode="json"), config.config_hash, config.total_images)
        continuous_evaluations.follow(tx, run, JobOptions(max_attempts=3))
    return run


def train(bench: Bench, run: Run, num_images: int) -> None:
    seed.snapshots(bench.catalog, bench.store, run.id, times=[num_images])
    with bench.catalog.transaction() as tx:
        tx.runs.set_progress(run.id, num_images)


def trainer(bench: Bench) -> Job:
    job = bench.claim(JobKind.TRAIN)
    while job is not None and job.payload["run_id"] == bench.run.id:
        job = bench.claim(JobKind.TRAIN)
    assert job is not None
    return job


def study(bench: Bench) -> Study:
    with bench.catalog.transaction(read_only=True) as tx:
        return tx.studies.page(StudyKind.FOLLOW).items[0]


def look(bench: Bench, figure: Callable[[Evaluation], float]) -> int:
    """Let the coordinator look at once, however long it wanted to wait, and end what it enqueues."""
    count = 0
    while True:
        with bench.catalog.transaction() as tx:
            tx.leases.postpone(str(study(bench).job_id), "", 0.0)
        if bench.step() is None:
            return count
        done = bench.finish_children(figure=figure)
        count += done
        if not done:
            return count


def curve(bench: Bench, run: Run) -> list[tuple[int, float]]:
    with bench.catalog.transaction(read_only=True) as tx:
        return [(point.num_images, round(point.sigma_rel, 4)) for point in progress_curve(tx, run.id).points]


def wants(width: float) -> Callable[[Evaluation], float]:
    """A figure that is best at this EMA length."""
    return lambda row: 0.5 + abs((row.reconstruction.sigma_rel or 0.0) - width)


def test_the_bracket_moves_to_the_best(bench: Bench) -> None:
    run = start(bench)
    trainer(bench)
    assert look(bench, wants(0.2)) == 0, "nothing is stored yet"
    train(bench, run, 3200)
    assert look(bench, wants(0.2)) == 0, "not the second time yet"
    for time in (6400, 9600, 12_800, 16_000, 19_200):
        train(bench, run, time)
        assert look(bench, wants(0.2)) == (3 if time % 6400 == 0 else 0)
    assert curve(bench, run) == [(6400, 0.14), (12_800, 0.196), (19_200, 0.196)]
    job = study(bench).job
    assert job is not None
    assert (job.state, job.priority) == (JobState.QUEUED, 40)
    assert job.message == "frechet 0.504 at sigma_rel 0.196 after 19,200 images"


def test_its_work_comes_after_that_of_users(bench: Bench) -> None:
    run = start(bench)
    train(bench, run, 6400)
    bench.step()
    assert {job.priority for job in bench.live(JobKind.EVALUATE)} == {40}
    assert {job.priority for job in bench.live(JobKind.RECONSTRUCT)} == {39}


def test_it_ends_with_the_run_and_evaluates_its_end(bench: Bench) -> None:
    run = start(bench)
    job = trainer(bench)
    train(bench, run, 6400)
    look(bench, wants(0.1))
    train(bench, run, 76_800)
    with bench.catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence)
    look(bench, wants(0.1))
    found = study(bench)
    assert found.state is JobState.SUCCEEDED
    assert found.result is not None
    assert (found.result["times"], found.result["sigma_rel"], found.result["stopped"]) == (2, 0.1, None)


def test_a_run_without_gains_is_ended_with_a_reason(bench: Bench) -> None:
    run = start(bench, stop_after_images=12_800)
    job = trainer(bench)
    values = {6400: 0.5, 12_800: 0.4, 19_200: 0.45, 25_600: 0.41}
    for time in values:
        train(bench, run, time)
        look(bench, lambda row: values[row.reconstruction.num_images])
    with bench.catalog.transaction() as tx:
        assert tx.jobs.get(job.id).cancel_requested
        tx.leases.cancelled(job.id, job.fence)
        ended = tx.runs.get(run.id)
    assert ended.state is JobState.CANCELLED
    assert ended.job.error is not None
    assert ended.job.error.startswith(
        "ended by evaluation.stop_after_images 12800: frechet has not improved since 12800"
    )
    look(bench, wants(0.1))
    assert study(bench).state is JobState.SUCCEEDED
    with bench.catalog.transaction() as tx:
        resumed = tx.run_control.resume(run.id)
        continuous_evaluations.follow(tx, resumed, JobOptions(max_attempts=3))
    trainer(bench)
    train(bench, run, 32_000)
    assert look(bench, lambda _: 0.45) == 3
    with bench.catalog.transaction() as tx:
        assert not tx.runs.get(run.id).job.cancel_requested, "the resumed run has its patience again"


def resume(bench: Bench, run: Run) -> None:
    with bench.catalog.transaction() as tx:
        runs.resume(tx, run.id, max_attempts=3)


def end(bench: Bench, job: Job) -> None:
    with bench.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
        tx.leases.cancelled(job.id, job.fence)


def test_a_run_that_is_resumed_while_its_evaluation_ends_is_still_evaluated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user resumes between the coordinator's decision and its write."""
    run = start(bench)
    job = trainer(bench)
    train(bench, run, 6400)
    look(bench, wants(0.1))
    end(bench, job)

    def resume_first(tx: Transaction, claimed: Job, study_id: str, step: Step) -> JobState:
        if isinstance(step, Finished) and not resumed:
            resumed.append(True)
            runs.resume(tx, run.id, max_attempts=3)
        return end_step(tx, claimed, study_id, step)

    resumed: list[bool] = []
    monkeypatch.setattr("phema.services.phema_worker.coordination.coordinator.end_step", resume_first)
    look(bench, wants(0.1))
    assert resumed
    assert study(bench).state is JobState.RUNNING
    trainer(bench)
    train(bench, run, 12_800)
    assert look(bench, wants(0.1)) == 3


def test_a_stop_rule_that_a_resume_overtakes_does_not_end_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(bench, stop_after_images=6400)
    job = trainer(bench)
    train(bench, run, 6400)
    look(bench, lambda _: 0.5)
    train(bench, run, 12_800)
    bench.step()
    bench.finish_children(figure=lambda _: 0.5)
    read_curve = follow._read_curve

    def overtaken(tx: Transaction, study_id: str) -> list[CurvePoint]:
        monkeypatch.undo()
        curve = read_curve(tx, study_id)
        end(bench, job)
        resume(bench, run)
        return curve

    monkeypatch.setattr(follow, "_read_curve", overtaken)
    look(bench, lambda _: 0.5)
    assert follow._read_curve is read_curve, "the stop rule was applied"
    progress = study(bench).progress or {}
    assert progress["since"] == 12_800
    assert "stopped" not in progress
    with bench.catalog.transaction(read_only=True) as tx:
        assert not tx.runs.get(run.id).job.cancel_requested


@only("sqlite")
def test_an_evaluation_that_a_user_cancelled_stays_cancelled(bench: Bench) -> None:
    run = start(bench)
    job = trainer(bench)
    follows = study(bench).job_id
    with bench.catalog.transaction() as tx:
        tx.jobs.request_cancel(str(follows))
    end(bench, job)
    resume(bench, run)
    assert (study(bench).job_id, study(bench).state) == (follows, JobState.CANCELLED)


@only("sqlite")
def test_resuming_a_run_that_trains_does_not_change_its_evaluation(bench: Bench) -> None:
    run = start(bench, stop_after_images=12_800)
    trainer(bench)
    train(bench, run, 6400)
    look(bench, wants(0.1))
    before = study(bench)
    resume(bench, run)
    assert (study(bench).progress, study(bench).job_id) == (before.progress, before.job_id)


@only("sqlite")
def test_an_idle_evaluation_reads_no_points_and_snapshots_that_it_knows(bench: Bench) -> None:
    run = start(bench)
    for time in (6400, 12_800, 19_200):
        train(bench, run, time)
        look(bench, wants(0.1))
    job = study(bench)
    work = StudyWork(bench.catalog, job.job, job, window=4, max_attempts=3, pause_seconds=1.0)  # type: ignore[arg-type]
    state = follow._read(work)
    assert [point.number for point in state.points] == [8]
    assert state.times == []
    assert "reconstruction" in inspect(state.points[0].evaluation).unloaded


@only("sqlite")
def test_a_failed_point_does_not_end_it(bench: Bench) -> None:
    run = start(bench)
    train(bench, run, 6400)
    bench.step()
    bench.finish_children(fails=lambda row: row.reconstruction.sigma_rel == 0.1)
    train(bench, run, 12_800)
    assert look(bench, wants(0.1)) == 3
    with bench.catalog.transaction(read_only=True) as tx:
        found = progress_curve(tx, run.id)
    assert [point.num_images for point in found.points] == [6400, 12_800]
    assert found.failures == ["the figures are not finite"]


@only("sqlite")
def test_times_that_pass_during_an_evaluation_are_left_out_and_the_stop_rule_applies_nevertheless(bench: Bench) -> None:
    """Training is faster than the evaluations, so a further time is always due."""
    run = start(bench, stop_after_images=12_800)
    job = trainer(bench)
    for time in range(6400, 64_001, 6400):
        train(bench, run, time)
        if time % 12_800 == 0:
            bench.step()
            bench.finish_children(figure=lambda _: 0.5)
            with bench.catalog.transaction() as tx:
                tx.leases.postpone(str(study(bench).job_id), "", 0.0)
    assert [time for time, _ in curve(bench, run)] == [12_800, 25_600]
    with bench.catalog.transaction() as tx:
        assert tx.jobs.get(job.id).cancel_requested
