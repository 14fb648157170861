"""One step of a continuous evaluation: score a bracket at the next time that is due, and end a run without gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phema.services.phema_worker.coordination.points import (
    NewPoint,
    is_settled,
    job_under_way,
    record_failures,
    submit_points,
)
from phema.services.phema_worker.coordination.steps import Finished, Step, Wait
from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.services.phema_worker.coordination.weights import request_weights
from phema.shared.catalog import JobState, Run, StudyPoint, Transaction
from phema.shared.recipes.continuous_evaluation import ContinuousEvaluation
from phema.shared.recipes.run_config import RunConfig
from phema.shared.studies.point import StudyPointSpec
from phema.shared.studies.progress_curve import (
    CurvePoint,
    bracket_points,
    progress_curve,
    stop_sentence,
    times_to_evaluate,
    with_replicates,
)
from phema.shared.submissions.stored_inputs import complete_times


def advance(work: StudyWork) -> Step:
    """Raises LeaseLost, CatalogUnreachable."""
    while True:
        state = _read(work)
        if state.unrecorded:
            record_failures(work, state.points)
            continue
        pending = [point for point in state.points if not is_settled(point)]
        if jobs := [job for point in pending if (job := job_under_way(point)) is not None]:
            return Wait(tuple(jobs), state.message, state.fraction)
        if again := [point for point in pending if point.evaluation_id is None]:
            _submit(work, [(p.number, StudyPointSpec.model_validate(p.point), p.stage) for p in again])
            continue
        if work.stopped():
            return Wait((), state.message, state.fraction)
        if state.settled < state.next_number:
            _judge(work, state)
        elif state.due and state.stopped is None:
            # The latest: where training is faster than evaluations, the others would come too late to be of use.
            _submit(work, _bracket(state, state.due[-1]))
        elif state.run.state.terminal:
            return _finish(work, state)
        elif state.stopped is not None:
            return Wait((state.run.job_id,), state.stopped, state.fraction)
        else:
            return Wait((), state.message, state.fraction, pause_seconds=work.pause_seconds)


@dataclass(frozen=True)
class _State:
    """What the catalog says at one moment, without what cannot have changed since the points were judged."""

    run: Run
    config: RunConfig
    evaluation: ContinuousEvaluation
    points: list[StudyPoint]
    """The last one that was judged, and those after it."""
    times: list[int]
    """Later than all points, at which every tracked average is stored."""
    progress: dict[str, Any]

    @property
    def settled(self) -> int:
        """Points with smaller numbers are settled, and the stop rule was applied to them."""
        return int(self.progress.get("settled", 0))

    @property
    def next_number(self) -> int:
        return self.points[-1].number + 1 if self.points else 0

    @property
    def due(self) -> list[int]:
        return times_to_evaluate(self.config, self.evaluation, self.times, _latest(self.points))

    @property
    def fraction(self) -> float:
        return min(_latest(self.points) / self.config.total_images, 1.0)

    @property
    def unrecorded(self) -> bool:
        """Whether a point has failed and has no error yet."""
        return any(
            p.error is None and p.evaluation is not None and p.evaluation.state in (JobState.FAILED, JobState.CANCELLED)
            for p in self.points
        )

    @property
    def stopped(self) -> str | None:
        """Why the run was asked to end; None for a run that was resumed afterwards."""
        return self.progress.get("stopped") if self.progress.get("stopped_job") == self.run.job_id else None

    @property
    def message(self) -> str:
        waits = f"waits for snapshot times; the run has seen {self.run.num_images:,} images"
        return str(self.progress.get("message", waits))


def _read(work: StudyWork) -> _State:
    """An idle study is read every few seconds: points that were judged are left out, except the last."""
    with work.read() as tx:
        study = tx.studies.get(work.study.id)
        progress = study.progress or {}
        run, points = tx.runs.get(study.run_id), tx.studies.points(study.id, after=progress.get("settled", 0) - 2)
        times = complete_times(tx, run, _latest(points))
    evaluation = ContinuousEvaluation.model_validate(study.spec)
    return _State(run, RunConfig.model_validate(run.config), evaluation, points, times, progress)


def _read_curve(tx: Transaction, study_id: str) -> list[CurvePoint]:
    """The whole curve, with the replicates that the stop rule needs."""
    curve = progress_curve(tx.studies.points(study_id))
    replicates: dict[str, dict[str, list[float]]] = {}
    for figure in {point.figure for point in curve}:
        ids = [point.evaluation_id for point in curve if point.figure == figure]
        replicates |= tx.evaluations.replicates(ids, figure)
    return with_replicates(curve, replicates)


def _judge(work: StudyWork, state: _State) -> None:
    """Apply the stop rule to the points, all of which are settled, and note what later steps need of them."""
    with work.read() as tx:
        curve = _read_curve(tx, work.study.id)
    changes: dict[str, Any] = {"settled": state.next_number}
    if curve:
        changes |= {"message": _message(curve[-1]), "sigma_rel": curve[-1].sigma_rel}
    with work.write() as tx:
        stopped = _stop(tx, state, curve, tx.runs.get(state.run.id), tx.studies.get(work.study.id).progress or {})
        # Who resumes the run holds its lock, too. The run's job is locked before it, as where the trainer writes.
        tx.runs.lock(state.run.id)
        progress = tx.studies.get(work.study.id).progress or {}
        if tx.runs.get(state.run.id).job_id == stopped.get("stopped_job"):
            changes |= stopped
        tx.studies.set_progress(work.study.id, {**progress, **changes})


def _stop(
    tx: Transaction, state: _State, curve: Sequence[CurvePoint], run: Run, progress: dict[str, Any]
) -> dict[str, Any]:
    """Ask the run to end after a checkpoint if it brings no gain. Returns what `progress` says of that."""
    if run.state.terminal or progress.get("stopped_job") == run.job_id:
        return {}
    sentence = stop_sentence(state.evaluation, curve, int(progress.get("since", 0)))
    if sentence is None or tx.jobs.request_cancel(run.job_id, sentence).cancel_reason != sentence:
        return {}
    return {"stopped": sentence, "stopped_job": run.job_id}


def _bracket(state: _State, num_images: int) -> list[tuple[int, StudyPointSpec, int]]:
    """(number, spec, stage) of the points of a new time."""
    best = state.progress.get("sigma_rel")
    specs = bracket_points(state.run.id, state.evaluation, state.evaluation.metrics or (), num_images, best)
    stage = state.points[-1].stage + 1 if state.points else 0
    return [(state.next_number + i, spec, stage) for i, spec in enumerate(specs)]


def _submit(work: StudyWork, points: Sequence[tuple[int, StudyPointSpec, int]]) -> None:
    """Enqueue points, those of one time in one pass over the snapshots."""
    by_time: dict[int, list[tuple[int, StudyPointSpec, int]]] = {}
    for point in points:
        by_time.setdefault(point[1].weights.num_images, []).append(point)
    for of_time in by_time.values():
        weights = request_weights(work, [spec.weights for _, spec, _ in of_time])
        new = [NewPoint(n, spec, made, stage=stage) for (n, spec, stage), made in zip(of_time, weights, strict=True)]
        submit_points(work, new)


def _finish(work: StudyWork, state: _State) -> Finished:
    with work.read() as tx:
        curve = _read_curve(tx, work.study.id)
    document: dict[str, Any] = {"times": len(curve), "stopped": state.stopped}
    if curve:
        sign = 1 if curve[0].better == "lower" else -1
        best = min(curve, key=lambda point: sign * point.value.value)
        document |= {
            "figure": best.figure,
            "value": best.value.value,
            "standard_error": best.value.standard_error,
            "sigma_rel": best.sigma_rel,
            "num_images": best.num_images,
        }
    return Finished(document, document, still_holds=lambda tx: _has_ended(tx, state.run))


def _has_ended(tx: Transaction, run: Run) -> bool:
    """Whether the run has not been resumed. Nobody can resume it until the transaction ends."""
    tx.runs.lock(run.id)
    return tx.runs.get(run.id).state.terminal


def _latest(points: Sequence[StudyPoint]) -> int:
    """The latest time of the points, in images."""
    return max((int(point.point["weights"]["num_images"]) for point in points), default=0)


def _message(last: CurvePoint) -> str:
    return f"{last.figure} {last.value.value:.4g} at sigma_rel {last.sigma_rel:.3g} after {last.num_images:,} images"
