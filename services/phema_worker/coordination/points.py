"""The points of a study in the catalog: their evaluations are enqueued, and their ends are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.services.phema_worker.coordination.weights import Weights
from phema.shared.catalog import Evaluation, JobState, StudyPoint, Transaction
from phema.shared.studies.point import StudyPointSpec
from phema.shared.submissions import evaluations
from phema.shared.submissions.errors import SubmissionError
from phema.shared.submissions.evaluations import EvaluationRequest


@dataclass(frozen=True)
class NewPoint:
    number: int
    spec: StudyPointSpec
    weights: Weights
    guide: Weights | None = None
    stage: int = 0


def submit_points(work: StudyWork, points: Sequence[NewPoint]) -> list[StudyPoint]:
    """Add points with their evaluations, in one transaction. A point that exists and has an evaluation is unchanged.

    A point that cannot be evaluated gets an error and does not keep the others.
    """
    with work.write() as tx:
        return [_submit(tx, work, point) for point in points]


def _submit(tx: Transaction, work: StudyWork, point: NewPoint) -> StudyPoint:
    study_id, number = work.study.id, point.number
    row = tx.studies.add_point(study_id, number, point.spec.model_dump(mode="json"), stage=point.stage)
    if row.evaluation_id is not None:
        return row
    guide_id = point.guide.reconstruction_id if point.guide is not None else None
    error = point.weights.error
    if error is None and point.guide is not None and point.guide.error is not None:
        error = f"guide: {point.guide.error}"
    evaluation_id = None
    if error is None and point.weights.reconstruction_id is not None:
        fields = {name: value for name, value in point.spec.recipe.items() if name != "metrics"}
        request = EvaluationRequest(
            point.weights.reconstruction_id, fields, guide_id=guide_id, metrics=point.spec.recipe.get("metrics")
        )
        try:
            evaluation_id = evaluations.submit(tx, request, work.options, unfinished_weights=True).id
        except SubmissionError as refused:
            error = str(refused)
    tx.studies.set_point(
        study_id,
        number,
        reconstruction_id=point.weights.reconstruction_id,
        guide_reconstruction_id=guide_id,
        evaluation_id=evaluation_id,
        error=error,
    )
    return tx.studies.add_point(study_id, number, {})


def is_settled(point: StudyPoint) -> bool:
    """Whether nothing more happens to the point: it has figures or an error."""
    return point.error is not None or (point.evaluation is not None and point.evaluation.figures is not None)


def job_under_way(point: StudyPoint) -> str | None:
    """Id of the live job that evaluates the point."""
    row = point.evaluation
    if is_settled(point) or row is None or row.job is None or row.job.state.terminal:
        return None
    return row.job.id


def record_failures(work: StudyWork, points: Sequence[StudyPoint]) -> None:
    """Write the error of each of these points whose evaluation has failed or was cancelled.

    An evaluation that was cancelled with another study, which had enqueued it, is taken from its point: it is
    submitted again.
    """
    failed = [
        (point.number, point.evaluation)
        for point in points
        if point.error is None and point.evaluation is not None and _has_failed(point.evaluation)
    ]
    if not failed:
        return
    with work.write() as tx:
        for number, evaluation in failed:
            if _was_cancelled_by_others(work, evaluation):
                tx.studies.set_point(work.study.id, number, evaluation_id=None)
            else:
                tx.studies.set_point(work.study.id, number, error=_why(tx, evaluation))


def _was_cancelled_by_others(work: StudyWork, evaluation: Evaluation) -> bool:
    job = evaluation.job
    if job is None or job.state is not JobState.CANCELLED:
        return False
    return job.parent_id is not None and job.parent_id != work.job.id


def _has_failed(evaluation: Evaluation) -> bool:
    return evaluation.state in (JobState.FAILED, JobState.CANCELLED)


def _why(tx: Transaction, evaluation: Evaluation) -> str:
    """One sentence. An evaluation without weights failed because of the job that should have made them."""
    for role, identity in (("its weights", evaluation.reconstruction_id), ("its guide", evaluation.recipe["guide_id"])):
        row = tx.reconstructions.get(identity) if identity is not None else None
        if row is not None and row.state in (JobState.FAILED, JobState.CANCELLED):
            reason = row.job.error if row.job and row.job.error else f"the job was {row.state}"
            return f"{role} could not be reconstructed: {reason}"
    if evaluation.job is not None and evaluation.job.error:
        return evaluation.job.error
    return f"its evaluation was {evaluation.state}"
