"""One line for each kind of response: its `repr`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phema.client.average_models import (
    Basis,
    BasisPlan,
    Plan,
    PlannedOutput,
    Preview,
    PreviewPlan,
    Reconstruction,
    Retention,
)
from phema.client.display.numbers import count, size, with_error
from phema.client.resources.analyses import Analysis, AnalysisRow
from phema.client.response_models import (
    Evaluation,
    Job,
    Metrics,
    Model,
    ResponseModel,
    Run,
    RunEvent,
    RunPlan,
    Sample,
    Snapshot,
)
from phema.client.study_models import ProgressCurve, Search, StudyPoint, Sweep
from phema.shared.validation_sentences import LONGEST


def summary(record: ResponseModel) -> str:
    """What the record is about, in one line."""
    words = next((_WORDS[kind] for kind in type(record).__mro__ if kind in _WORDS), _fields)
    return " ".join(words(record).split())


def best_figure(evaluation: Evaluation) -> str:
    """The figure by which the evaluation is ranked, with its standard error; empty without figures."""
    from phema.shared.metrics.registry import ranking_figure

    found = {name: value for name, value in (evaluation.figures or {}).items() if value is not None}
    figure = ranking_figure(found)
    name = figure.name if figure is not None else next(iter(found), None)
    return "" if name is None else f"{name} {with_error(found[name], (evaluation.errors or {}).get(name))}"


def _run(run: Run) -> str:
    return f"{run.name!r} {run.state}, {count(run.num_images)} of {count(run.total_images)} images"


def _run_event(event: RunEvent) -> str:
    return f"{event.at:%Y-%m-%d %H:%M:%S} {event.kind}{f': {event.reason}' if event.reason else ''}"


def _job(job: Job) -> str:
    return f"{job.id} {job.kind} {job.state}{f' {job.progress:.0%}' if job.state == 'running' else ''}"


def _weights(record: Reconstruction | Sample | Evaluation | Preview) -> str:
    return f"{record.id} {record.label} at {count(record.num_images)} images {record.state}"


def _reconstruction(record: Reconstruction | Preview) -> str:
    return f"{_weights(record)}, predicted error {record.predicted_error:.2g}"


def _evaluation(record: Evaluation) -> str:
    figure = best_figure(record)
    return f"{_weights(record)}{f', {figure}' if figure else ''}"


def _sample(record: Sample) -> str:
    return f"{_weights(record)}, {count(record.num_pictures)} pictures"


def _study(record: Sweep | Search) -> str:
    points = record.num_points if isinstance(record, Sweep) else len(record.points)
    sentence = record.answer if isinstance(record, Sweep) else record.result and record.result.sentence
    return f"{record.id} {record.state}, {count(points)} points{f': {_cut(sentence)}' if sentence else ''}"


def _plan(plan: Plan) -> str:
    return (
        f"of {len(plan.outputs)} profiles at {count(plan.num_images)} images from {len(plan.snapshots)} snapshots, "
        f"{size(plan.bytes_to_read)}"
    )


def _preview_plan(plan: PreviewPlan) -> str:
    return _plan(plan.plan)


def _run_plan(plan: RunPlan) -> str:
    hours = "" if plan.hours is None else f", {plan.hours:.3g} hours"
    return f"{plan.preset}, {count(plan.num_parameters)} parameters, {size(plan.snapshot_bytes)} of snapshots{hours}"


def _output(output: PlannedOutput) -> str:
    return f"{output.label}, predicted error {output.predicted_error:.2g}"


def _snapshot(snapshot: Snapshot) -> str:
    return f"{snapshot.id} {snapshot.average} at {count(snapshot.num_images)} images"


def _metrics(row: Metrics) -> str:
    loss = row.values.get("loss")
    return f"at {count(row.num_images)} images{'' if loss is None else f', loss {loss:.4g}'}"


def _model(model: Model) -> str:
    return f"{model.reference} {model.label} of {model.run!r} at {count(model.num_images)} images"


def _basis(basis: Basis) -> str:
    return f"{basis.id} at {count(basis.num_images)} images {basis.state}, {basis.vectors} vectors"


def _basis_plan(plan: BasisPlan) -> str:
    return f"at {count(plan.num_images)} images, {plan.vectors} vectors, {size(plan.bytes_to_store)}"


def _retention(found: Retention) -> str:
    verb = "would free" if found.dry_run else "frees"
    return f"{found.policy} {verb} {count(found.frees.snapshots)} snapshots, {size(found.frees.bytes)}"


def _point(point: StudyPoint) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in (point.figures or {}).items() if value is not None)
    weights = f"{point.weights.label} at {count(point.weights.num_images)} images"
    return f"{point.number} {weights} {point.state} {_cut(figures)}"


def _analysis(analysis: Analysis) -> str:
    return f"{analysis.analysis} of {', '.join(analysis.runs)}: {len(analysis.rows)} rows of {analysis.figure}"


def _analysis_row(row: AnalysisRow) -> str:
    return f"{row.run!r} {row.label} {with_error(row.value, row.standard_error)}{' best' if row.best else ''}"


def _curve(curve: ProgressCurve) -> str:
    return f"of {curve.run_id}, {len(curve.points)} points"


def _fields(record: ResponseModel) -> str:
    return _cut(", ".join(f"{name}={value!r}" for name, value in record if value is not None))


def _cut(text: str) -> str:
    return text if len(text) <= 2 * LONGEST else f"{text[: 2 * LONGEST - 1]}…"


_WORDS: dict[type, Callable[[Any], str]] = {
    Run: _run,
    RunEvent: _run_event,
    Job: _job,
    Reconstruction: _reconstruction,
    Evaluation: _evaluation,
    Sample: _sample,
    Sweep: _study,
    Search: _study,
    Plan: _plan,
    Preview: _reconstruction,
    PreviewPlan: _preview_plan,
    RunPlan: _run_plan,
    PlannedOutput: _output,
    Snapshot: _snapshot,
    Metrics: _metrics,
    Model: _model,
    Basis: _basis,
    BasisPlan: _basis_plan,
    Retention: _retention,
    StudyPoint: _point,
    Analysis: _analysis,
    AnalysisRow: _analysis_row,
    ProgressCurve: _curve,
}
