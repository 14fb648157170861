"""Sweeps advanced step by step: the coordinator is real, the jobs of points are ended by the test at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phema.services.phema_worker.coordination.coordinator import STEPS, Coordinator
from phema.shared.catalog import (
    Catalog,
    Evaluation,
    Job,
    JobKind,
    JobState,
    Run,
    Study,
    StudyPoint,
    Transaction,
)
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.work_waker import WorkWaker
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.studies.sweep_spec import StoredSweep, SweepSpec, extended
from phema.shared.submissions import sweeps
from phema.shared.submissions.evaluations import EvaluationRequest
from phema.shared.submissions.evaluations import submit as submit_evaluation
from phema.shared.submissions.job_options import JobOptions
from phema.shared.telemetry import Meters
from tests.api import seed
from tests.fixtures.catalog import only

OPTIONS = JobOptions(max_attempts=3)
WIDTHS = [0.03, 0.06, 0.09, 0.12, 0.15, 0.18]


@dataclass
class Bench:
    """A run with snapshots, and a coordinator whose steps the test calls."""

    catalog: Catalog
    store: ObjectStore
    coordinator: Coordinator
    run: Run

    def ask(self, **fields: Any) -> Study:
        spec = SweepSpec.model_validate({"sigma_rel": WIDTHS, "num_samples": 64, **fields})
        return self.submit(spec)

    def submit(self, spec: SweepSpec) -> Study:
        with self.catalog.transaction() as tx:
            return sweeps.submit(tx, sweeps.prepare(tx, self.run.name, spec), OPTIONS)

    def step(self) -> JobState | None:
        """Let the coordinator claim a study's job and do its step. None when no job is due."""
        job = self.claim(*STEPS)
        return None if job is None else self.coordinator._work(job)

    def claim(self, *kinds: JobKind) -> Job | None:
        with self.catalog.transaction() as tx:
            return tx.leases.claim(kinds, owner="test", lease_seconds=60)

    def finish_children(
        self,
        fails: Callable[[Evaluation], bool] = lambda _: False,
        figure: Callable[[Evaluation], float] = lambda row: 0.5 + ((row.reconstruction.sigma_rel or 0.0) - 0.09) ** 2,
    ) -> int:
        """End every reconstruction and evaluation that is due. Returns the number of evaluations.

        By default the figure is smallest at sigma_rel 0.09.
        """
        count = 0
        while (job := self.claim(JobKind.RECONSTRUCT, JobKind.EVALUATE)) is not None:
            with self.catalog.transaction() as tx:
                if job.kind is JobKind.RECONSTRUCT:
                    for identity in job.payload["reconstruction_ids"]:
                        tx.reconstructions.complete(identity, f"weights/{identity}", 1, "0" * 64)
                    tx.leases.succeed(job.id, job.fence)
                    continue
                row = tx.evaluations.get(job.payload["evaluation_id"])
                count += 1
                if fails(row):
                    tx.leases.fail(job.id, job.fence, "the figures are not finite", retry=False)
                    continue
                _complete(tx, row, figure(row))
                tx.leases.succeed(job.id, job.fence)
        return count

    def finish(self) -> int:
        """Advance everything to its end. Returns the number of evaluations that were computed."""
        count = 0
        while True:
            stepped = self.step()
            done = self.finish_children()
            count += done
            if stepped is None and not done:
                return count

    def study(self, study: Study) -> Study:
        with self.catalog.transaction(read_only=True) as tx:
            return tx.studies.get(study.id)

    def points(self, study: Study) -> list[StudyPoint]:
        with self.catalog.transaction(read_only=True) as tx:
            return tx.studies.points(study.id)

    def live(self, kind: JobKind) -> list[Job]:
        with self.catalog.transaction(read_only=True) as tx:
            return [job for job in tx.jobs.list(kind=kind, limit=500).items if not job.state.terminal]

    def count(self, kind: JobKind) -> int:
        with self.catalog.transaction(read_only=True) as tx:
            return len(tx.jobs.list(kind=kind, limit=500).items)


def _complete(tx: Transaction, row: Evaluation, value: float) -> None:
    """The error is large, but the blocks of all evaluations move together."""
    blocks = [value + shift for shift in (-0.1, 0.1, 0.0, 0.0)]
    figures = {"frechet": value, "held_out_loss": 1.0}
    tx.evaluations.complete(
        row.id, figures, "pictures", errors={"frechet": 0.1}, replicates={"frechet": blocks, "held_out_loss": [1.0] * 4}
    )


@pytest.fixture
def bench(catalog: Catalog, tmp_path: Path) -> Bench:
    return bench_of(catalog, tmp_path)


def bench_of(catalog: Catalog, tmp_path: Path) -> Bench:
    store = open_store((tmp_path / "store").as_uri())
    settings = Settings(state_dir=tmp_path)
    feed = JobFeed(catalog, WorkWaker(catalog, 1.0), STEPS, owner="test", lease_s=60)
    coordinator = Coordinator(feed, settings, catalog, Meters("worker"), threading.Event())
    return Bench(catalog, store, coordinator, seed.trained(catalog, store))


def test_a_sweep_evaluates_every_point_and_names_the_best(bench: Bench) -> None:
    study = bench.ask()
    assert bench.finish() == 6
    study = bench.study(study)
    assert study.state is JobState.SUCCEEDED
    assert study.result is not None
    assert study.result["best"] == 2
    assert study.result["figure"] == "frechet"
    assert study.result["indistinct"] == [], "paired, the differences have no error"
    assert study.result["edges"] == {}
    assert study.result["sentence"] == "frechet is best at sigma_rel 0.09: 0.5 ± 0.1"
    assert [point.evaluation.figures is not None for point in bench.points(study) if point.evaluation] == [True] * 6
    assert bench.count(JobKind.RECONSTRUCT) == 1, "all weights of one time in one pass"


@only("sqlite")
def test_a_window_of_points_slides(bench: Bench) -> None:
    study = bench.ask(seed=list(range(5)))
    assert bench.step() is JobState.QUEUED
    assert len(bench.live(JobKind.EVALUATE)) == 4
    assert bench.claim(JobKind.SWEEP) is None, "the study waits for its points"
    assert bench.study(study).state is JobState.RUNNING
    bench.finish_children()
    assert bench.study(study).job is not None
    assert bench.step() is JobState.QUEUED
    job = bench.study(study).job
    assert job is not None
    assert (job.message, job.progress) == ("4 of 30 points", pytest.approx(4 / 30))
    assert len(bench.live(JobKind.EVALUATE)) == 4
    assert bench.finish() == 26
    assert bench.study(study).state is JobState.SUCCEEDED


@only("sqlite")
def test_the_study_is_claimed_again_before_its_window_runs_dry(bench: Bench) -> None:
    bench.ask()
    bench.step()
    job = bench.claim(JobKind.RECONSTRUCT)
    assert job is not None
    with bench.catalog.transaction() as tx:
        for identity in job.payload["reconstruction_ids"]:
            tx.reconstructions.complete(identity, "weights", 1, "0" * 64)
        tx.leases.succeed(job.id, job.fence)
    evaluation = bench.claim(JobKind.EVALUATE)
    assert evaluation is not None
    with bench.catalog.transaction() as tx:
        _complete(tx, tx.evaluations.get(evaluation.payload["evaluation_id"]), 0.5)
        tx.leases.succeed(evaluation.id, evaluation.fence)
    assert bench.step() is JobState.QUEUED
    assert len(bench.live(JobKind.EVALUATE)) == 4


def test_an_equal_sweep_computes_nothing_and_a_larger_one_only_the_new_points(bench: Bench) -> None:
    study = bench.ask()
    bench.finish()
    assert bench.ask().id == study.id
    assert bench.finish() == 0
    larger = bench.ask(sigma_rel=[*WIDTHS, 0.2])
    assert larger.id != study.id
    assert bench.finish() == 1
    before = {point.evaluation_id for point in bench.points(study)}
    assert before < {point.evaluation_id for point in bench.points(larger)}


def test_an_extension_keeps_what_was_computed(bench: Bench) -> None:
    study = bench.ask()
    bench.finish()
    spec = StoredSweep.model_validate(bench.study(study).spec).spec
    more = bench.submit(extended(spec, {"sigma_rel": (0.1, 0.11)}))
    assert bench.finish() == 2
    assert len(bench.points(more)) == 8
    bench.submit(extended(spec, {"num_samples": 128}))
    assert bench.finish() == 6
    assert bench.count(JobKind.RECONSTRUCT) == 2, "more pictures need no new weights"


def test_a_failed_point_has_an_error_and_does_not_fail_the_sweep(bench: Bench) -> None:
    study = bench.ask()
    bench.step()
    bench.finish_children(lambda row: row.reconstruction.sigma_rel == 0.06)
    bench.finish()
    study = bench.study(study)
    assert study.state is JobState.SUCCEEDED
    assert study.result is not None
    assert (study.result["best"], study.result["failed"]) == (2, 1)
    assert bench.points(study)[1].error == "the figures are not finite"
    again = bench.ask()
    assert again.id == study.id
    assert bench.finish() == 1, "asked again, only the failed point is tried again"
    assert [point.error for point in bench.points(study)] == [None] * 6


@only("sqlite")
def test_a_sweep_without_any_figure_fails_with_the_first_error(bench: Bench) -> None:
    study = bench.ask(sigma_rel=[0.05, 0.1])
    bench.step()
    bench.finish_children(lambda _: True)
    bench.finish()
    job = bench.study(study).job
    assert job is not None
    assert (job.state, job.error) == (JobState.FAILED, "all 2 points failed; the first: the figures are not finite")


@only("sqlite")
def test_a_reconstruction_that_fails_fails_its_points_with_its_own_error(bench: Bench) -> None:
    study = bench.ask(sigma_rel=[0.05, 0.07])  # 0.05 at the latest time is a stored snapshot too
    bench.step()
    job = bench.claim(JobKind.RECONSTRUCT)
    assert job is not None
    with bench.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "damaged-object: a snapshot is damaged", retry=False)
    bench.finish_children(lambda _: True)
    bench.finish()
    error = bench.points(study)[0].error
    assert error == "its weights could not be reconstructed: damaged-object: a snapshot is damaged"


def test_a_cancelled_sweep_ends_its_children_but_not_those_of_users(bench: Bench) -> None:
    study = bench.ask()
    bench.step()
    points = bench.points(study)
    with bench.catalog.transaction() as tx:
        # A user asks for what the sweep computes anyway, and wants it also without the sweep.
        spec = points[0].point["recipe"]
        fields = {name: value for name, value in spec.items() if name != "metrics"}
        request = EvaluationRequest(str(points[0].reconstruction_id), fields, metrics=spec["metrics"])
        wanted = submit_evaluation(tx, request, OPTIONS, unfinished_weights=True)
        assert wanted.id == points[0].evaluation_id
        tx.jobs.request_cancel(str(study.job_id))
    assert bench.study(study).state is JobState.CANCELLED
    assert [job.id for job in bench.live(JobKind.EVALUATE)] == [wanted.job_id]
    assert len(bench.live(JobKind.RECONSTRUCT)) == 1, "the user's evaluation needs the weights"
    again = bench.ask()
    assert again.id == study.id
    assert bench.finish() == 6
    assert bench.study(study).state is JobState.SUCCEEDED


@only("sqlite")
def test_a_cancelled_sweep_leaves_no_reconstruction_behind(bench: Bench) -> None:
    study = bench.ask()
    bench.step()
    with bench.catalog.transaction() as tx:
        tx.jobs.request_cancel(str(study.job_id))
    assert bench.live(JobKind.EVALUATE) == bench.live(JobKind.RECONSTRUCT) == []


class _Died(BaseException):
    """Ends a step as a signal would: nothing after it runs."""


@only("sqlite")
def test_a_coordinator_that_dies_anywhere_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction of the first steps in turn is the last that its process commits."""
    undisturbed = bench.ask(seed=7)
    bench.finish()
    expected = [(p.point["weights"], p.evaluation.figures) for p in bench.points(undisturbed) if p.evaluation]
    for commits in range(1, 9):
        study = bench.ask(seed=7, num_steps=4 + commits)
        _die_after(bench, commits, monkeypatch)
        bench.finish()
        found = [(p.point["weights"], p.evaluation.figures) for p in bench.points(study) if p.evaluation]
        assert found == expected
        with bench.catalog.transaction(read_only=True) as tx:
            jobs = {job.content_key for job in tx.jobs.list(kind=JobKind.EVALUATE, limit=500).items}
        assert len(jobs) == 6 * (commits + 1), "no point was evaluated twice"


def _die_after(bench: Bench, commits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advance until the step's transaction number `commits`; then its process is gone and its lease runs out."""
    left = commits
    transaction = Catalog.transaction

    def counted(self: Catalog, **options: Any) -> Any:
        nonlocal left
        # The thread of the heartbeats, which a slow step has, is not the one that dies here.
        if not options.get("read_only") and threading.current_thread() is threading.main_thread():
            if left == 0:
                raise _Died
            left -= 1
        return transaction(self, **options)

    while (job := bench.claim(*STEPS)) is not None:
        with monkeypatch.context() as patched:
            patched.setattr(Catalog, "transaction", counted)
            try:
                bench.coordinator._work(job)
            except _Died:
                break
        bench.finish_children()
    with bench.catalog.transaction() as tx:
        if job is not None:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=-1)
            tx.leases.expire(STEPS)


@only("sqlite")
def test_guided_points_share_the_reconstructions_of_their_guides(bench: Bench) -> None:
    guide = {"sigma_rel": [0.2, 0.25], "num_images": [3200]}
    study = bench.ask(sigma_rel=[0.05, 0.1], guidance=[1, 2], guide=guide)
    assert bench.finish() == 6
    rows = bench.points(study)
    guided = [row.evaluation.recipe["guide_id"] for row in rows if row.evaluation]
    assert [identity is None for identity in guided] == [True, False, False] * 2
    assert guided[1:3] == guided[4:6]
    assert len(set(guided)) == 3


@only("sqlite")
def test_more_workers_have_more_points_under_way(bench: Bench) -> None:
    with bench.catalog.transaction() as tx:
        for port in (1, 2):
            tx.scrape_targets.register("worker", f"127.0.0.1:{port}")
        tx.scrape_targets.register("trainer", "127.0.0.1:3")
    bench.ask(seed=[0, 1])
    bench.step()
    assert len(bench.live(JobKind.EVALUATE)) == 8


@only("sqlite")
def test_a_study_that_is_cancelled_takes_no_point_from_another(bench: Bench) -> None:
    first = bench.ask(sigma_rel=[0.05, 0.1])
    bench.step()
    second = bench.ask(sigma_rel=[0.05, 0.1, 0.2])
    bench.step()
    shared = bench.points(first)[0].evaluation
    assert shared is not None
    with bench.catalog.transaction() as tx:
        tx.jobs.request_cancel(str(tx.studies.get(first.id).job_id))
        assert tx.jobs.get(str(shared.job_id)).state is JobState.QUEUED
    bench.finish()
    with bench.catalog.transaction(read_only=True) as tx:
        outcome = tx.studies.get(second.id).result
    assert outcome is not None
    assert outcome["failed"] == 0
    assert all(point.error is None for point in bench.points(second))
