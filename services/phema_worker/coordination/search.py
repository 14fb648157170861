"""One step of a search: when all points of the last step have ended, evaluate those that the model asks for next."""

from __future__ import annotations

from collections.abc import Sequence

from phema.services.phema_worker.coordination.points import (
    NewPoint,
    is_settled,
    job_under_way,
    record_failures,
    submit_points,
)
from phema.services.phema_worker.coordination.steps import Finished, Impossible, Step, Wait
from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.services.phema_worker.coordination.weights import Weights, request_weights
from phema.shared.catalog import StudyPoint
from phema.shared.studies.point import StudyPointSpec, WeightsSpec
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_progress import answer_document, evaluated_points
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.studies.search_steps import SearchFailed, next_step, pictures_drawn


def advance(work: StudyWork) -> Step:
    """Raises LeaseLost, CatalogUnreachable.

    A step's points are added in one transaction, so that a coordinator that dies leaves whole steps. Until then the
    same evaluations lead to the same points.
    """
    spec = SearchSpec.model_validate(work.study.spec)
    while True:
        record_failures(work, _read(work))
        points = _read(work)
        pending = [point for point in points if not is_settled(point)]
        if jobs := [job for point in pending if (job := job_under_way(point)) is not None]:
            return _wait(spec, points, jobs)
        if work.stopped():
            return _wait(spec, points, [])
        if again := [point for point in pending if point.evaluation_id is None]:
            _submit(work, [(p.number, p.stage, StudyPointSpec.model_validate(p.point)) for p in again])
            continue
        with work.read() as tx:
            ids = [point.evaluation_id for point in points if point.evaluation_id]
            replicates = tx.evaluations.replicates(ids, spec.figure)
        evaluated = evaluated_points(spec, points, replicates)
        try:
            step = next_step(spec.problem, evaluated)
        except SearchFailed as failed:
            first = next((point.error for point in points if point.error is not None), "a figure is missing")
            return Impossible(f"{failed}; the first without one: {first}")
        if isinstance(step, Answer):
            failures = sum(point.error is not None for point in points)
            return Finished(answer_document(spec, step), {"points": len(points), "failed": failures})
        stage = max((point.stage for point in points), default=-1) + 1
        first_number = points[-1].number + 1 if points else 0
        specs = [spec.point(work.study.run_id, one, step.num_samples, step.seed) for one in step.points]
        with work.write() as tx:
            tx.studies.set_progress(work.study.id, {"purpose": step.purpose})
        _submit(work, [(first_number + i, stage, one) for i, one in enumerate(specs)])


def _read(work: StudyWork) -> list[StudyPoint]:
    with work.read() as tx:
        return list(tx.studies.points(work.study.id))


def _submit(work: StudyWork, points: Sequence[tuple[int, int, StudyPointSpec]]) -> None:
    """Enqueue points (number, stage, point): weights of one run and time are made in one pass, guides in another."""
    wanted = [spec.weights for _, _, spec in points]
    guides = list(dict.fromkeys(spec.guide for _, _, spec in points if spec.guide is not None))
    made: dict[WeightsSpec, Weights] = {}
    for group in (list(dict.fromkeys(wanted)), guides):
        if group:
            made |= dict(zip(group, request_weights(work, group), strict=True))
    submit_points(
        work,
        [
            NewPoint(number, spec, made[spec.weights], None if spec.guide is None else made[spec.guide], stage=stage)
            for number, stage, spec in points
        ],
    )


def _wait(spec: SearchSpec, points: Sequence[StudyPoint], jobs: Sequence[str]) -> Wait:
    settled = [point for point in points if is_settled(point)]
    drawn = pictures_drawn(evaluated_points(spec, settled, {}))
    stage = points[-1].stage if points else 0
    mine = [point for point in points if point.stage == stage]
    done = sum(map(is_settled, mine))
    message = f"step {stage + 1}: {done} of {len(mine)} points; {drawn:,} of {spec.budget:,} pictures"
    return Wait(tuple(jobs), message, min(drawn / spec.budget, 1.0))
