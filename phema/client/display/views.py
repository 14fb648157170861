"""What Jupyter shows for a response and for a list of them: tables, curves and grids of pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from phema.client.average_models import Plan, Preview, PreviewPlan, Reconstruction
from phema.client.display import curves
from phema.client.display.markup import facts, heading, paragraph, picture, table
from phema.client.display.numbers import count, figure, size, with_error
from phema.client.display.summaries import summary
from phema.client.resources.analyses import Analysis
from phema.client.response_models import Evaluation, Job, Metrics, Model, ResponseModel, Run, RunEvent, Sample, Snapshot
from phema.client.run_configurations import differences
from phema.client.study_models import ProgressCurve, Search, Sweep
from phema.errors import PhemaError

LARGEST_PICTURE = 4 * 2**20
"""Bytes of a grid of pictures that is put into a notebook."""


def view(record: ResponseModel) -> str:
    """HTML of one response."""
    shown = next((_VIEWS[kind] for kind in type(record).__mro__ if kind in _VIEWS), _fields)
    return f"<div>{heading(type(record).__name__, summary(record))}{shown(record)}</div>"


def rows_view(rows: Sequence[Any]) -> str:
    """HTML of a list of responses of one kind."""
    if not rows:
        return "<p>no entries</p>"
    kinds = {type(row) for row in rows}
    if len(kinds) > 1 or not isinstance(rows[0], ResponseModel):
        return table(("",), [(repr(row),) for row in rows])
    return f"<div>{_LISTS.get(kinds.pop(), _any_rows)(rows)}</div>"


def _run(run: Run) -> str:
    different = differences(run) or {}
    rows = [(path, _value(value), _value(usual)) for path, (value, usual) in different.items()]
    return facts(
        [
            ("id", run.id),
            ("state", run.state),
            ("preset" if run.preset else "origin", run.preset or run.origin),
            ("images", f"{count(run.num_images)} of {count(run.total_images)}"),
            ("error", run.error),
        ]
    ) + (table((f"differs from {run.preset}", "value", "preset"), rows) if rows else "")


def _weights(record: Reconstruction | Evaluation | Sample | Preview) -> list[tuple[str, object]]:
    return [
        ("id", record.id),
        ("state", record.state),
        ("run", record.run_id),
        ("profile", record.label if record.sigma_rel is None else f"sigma_rel {record.sigma_rel:g}"),
        ("images", count(record.num_images)),
        ("error", record.error),
    ]


def _reconstruction(record: Reconstruction) -> str:
    return facts(
        [
            *_weights(record),
            ("predicted error", f"{record.predicted_error:.2g}"),
            ("advice", record.advice),
            ("size", None if record.size is None else size(record.size)),
        ]
    )


def _evaluation(record: Evaluation) -> str:
    errors = record.errors or {}
    rows = [(name, with_error(value, errors.get(name))) for name, value in (record.figures or {}).items()]
    recipe = [
        (name, value) for name, value in record.recipe.items() if name in ("num_samples", "num_steps", "guidance")
    ]
    drawn = record._picture.read if record.state == "succeeded" else None
    return (
        facts([*_weights(record), *recipe])
        + (table(("figure", "value"), rows, right=("value",)) if rows else "")
        + _grid(drawn, f"Pictures of {record.id}")
    )


def _sample(record: Sample) -> str:
    drawn = record._picture.read if record.state == "succeeded" and (record.size or 0) <= LARGEST_PICTURE else None
    entries = [("pictures", count(record.num_pictures)), ("format", record.request.get("format"))]
    return facts([*_weights(record), *entries]) + _grid(drawn, f"Pictures of {record.id}")


def _preview(record: Preview) -> str:
    drawn = record._picture.read if record.state == "succeeded" and (record.size or 0) <= LARGEST_PICTURE else None
    entries = [("predicted error", f"{record.predicted_error:.2g}")]
    return facts([*_weights(record), *entries]) + _grid(drawn, f"Pictures of {record.id}")


def _preview_plan(plan: PreviewPlan) -> str:
    return _plan(plan.plan)


def _grid(read: Callable[[], bytes] | None, description: str) -> str:
    """The grid that `read` fetches from the service. A notebook shows the rest if the service does not answer."""
    if read is None:
        return ""
    try:
        content = read()
    except PhemaError as error:
        return paragraph(f"The pictures are not shown: {error}")
    if len(content) > LARGEST_PICTURE or not content.startswith(b"\x89PNG"):
        return ""
    return picture(content, description, pixelated=True)


def _plan(plan: Plan) -> str:
    columns = ("profile", "predicted error", "profile error", "rounding error", "noise gain", "advice")
    rows = [
        (
            output.label,
            f"{output.predicted_error:.2g}",
            _short(output.profile_error),
            _short(output.rounding_error),
            f"{output.noise_gain:.3g}",
            output.advice or "",
        )
        for output in plan.outputs
    ]
    return table(columns, rows, right=columns[1:5]) + picture(curves.plan_picture(plan), "Wanted and reached profiles")


def _sweep(sweep: Sweep) -> str:
    columns = ("number", "profile", "images", "guidance", "state", sweep.figure or "figure", "difference", "")
    rows = [
        (
            point.number,
            point.weights.label,
            count(point.weights.num_images),
            f"{point.recipe.get('guidance', 1):g}",
            point.error or point.state,
            with_error(*_of(point.figures, point.errors, sweep.figure)),
            with_error(point.difference, point.difference_error) if point.difference is not None else "",
            "best" if point.number == sweep.best else "tied" if point.distinct is False else "",
        )
        for point in sweep.points
    ]
    return (
        paragraph(sweep.error or sweep.answer)
        + picture(curves.sweep_picture(sweep), f"{sweep.figure} over the EMA length")
        + (table(columns, rows, right=("number", "images", "guidance", columns[5], "difference")) if rows else "")
    )


def _search(search: Search) -> str:
    result = search.result
    names = list(dict.fromkeys(name for point in search.points for name in point.point))
    columns = ("step", *names, "pictures", "state", "figures")
    rows = [
        (
            point.step,
            *(f"{point.point[name]:.4g}" if name in point.point else "" for name in names),
            count(point.num_samples),
            point.error or point.state,
            ", ".join(f"{name} {figure(value)}" for name, value in (point.figures or {}).items()),
        )
        for point in search.points
    ]
    return (
        paragraph(search.error or (result.sentence if result else search.purpose))
        + picture(curves.search_picture(search), "The figure over the EMA length, and the optimum")
        + (table(columns, rows, right=("step", *names, "pictures")) if rows else "")
    )


def _progress(curve: ProgressCurve) -> str:
    columns = ("images", "sigma_rel", "figure", "value")
    rows = [
        (count(one.num_images), f"{one.sigma_rel:.4g}", one.figure, with_error(one.value, one.standard_error))
        for one in curve.points
    ]
    drawn = picture(curves.progress_picture(curve), "Best value over training time")
    return paragraph(curve.stopped) + drawn + table(columns, rows, right=("images", "sigma_rel", "value"))


def _analysis(analysis: Analysis) -> str:
    columns = ("run", "profile", "images", "guidance", analysis.figure, "difference", "")
    rows = [
        (
            row.run,
            row.label,
            count(row.num_images),
            f"{row.guidance:g}",
            with_error(row.value, row.standard_error),
            with_error(row.difference, row.difference_error),
            "best" if row.best else "tied" if row.tied else "",
        )
        for row in analysis.rows
    ]
    return paragraph(analysis.title) + table(columns, rows, right=("images", "guidance", columns[4], "difference"))


def _fields(record: ResponseModel) -> str:
    return facts((name, _value(value)) for name, value in record.to_json().items())


def _run_rows(rows: Sequence[Run]) -> str:
    columns = ("name", "state", "preset", "images", "of", "id")
    cells = [
        (run.name, run.state, run.preset or run.origin, count(run.num_images), count(run.total_images), run.id)
        for run in rows
    ]
    return table(columns, cells, right=("images", "of"))


def _evaluation_rows(rows: Sequence[Evaluation]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.figures or {} if "_level_" not in name))
    columns = ("profile", "images", "state", *names, "samples", "id")
    cells = [
        (
            row.label,
            count(row.num_images),
            row.state,
            *(with_error(*_of(row.figures, row.errors, name)) for name in names),
            row.recipe.get("num_samples", ""),
            row.id,
        )
        for row in rows
    ]
    drawn = picture(curves.evaluations_picture(rows), "Figure over the EMA length")
    return drawn + table(columns, cells, right=("images", *names, "samples"))


def _reconstruction_rows(rows: Sequence[Reconstruction]) -> str:
    columns = ("profile", "images", "state", "predicted error", "size", "id", "advice")
    cells = [
        (
            row.label,
            count(row.num_images),
            row.state,
            f"{row.predicted_error:.2g}",
            "" if row.size is None else size(row.size),
            row.id,
            row.advice or "",
        )
        for row in rows
    ]
    return table(columns, cells, right=("images", "predicted error", "size"))


def _history_rows(rows: Sequence[Metrics]) -> str:
    names = ("loss", "learning_rate", "images_per_second")
    cells = [(count(row.num_images), *(figure(row.values.get(name)) for name in names)) for row in rows]
    drawn = picture(curves.history_picture(rows), "Loss and learning rate")
    return drawn + table(("images", *names), cells, right=("images", *names))


def _snapshot_rows(rows: Sequence[Snapshot]) -> str:
    cells = [
        (count(row.num_images), row.average, size(row.size), "pinned" if row.pinned else "", row.id) for row in rows
    ]
    return table(("images", "average", "size", "kept", "id"), cells, right=("images", "size"))


def _event_rows(rows: Sequence[RunEvent]) -> str:
    cells = [(f"{row.at:%Y-%m-%d %H:%M:%S}", row.kind, row.attempt or "", row.reason or "") for row in rows]
    return table(("at", "what", "attempt", "why"), cells, right=("attempt",))


def _job_rows(rows: Sequence[Job]) -> str:
    cells = [(row.kind, row.state, f"{row.progress:.0%}", row.id, row.error or row.message or "") for row in rows]
    return table(("kind", "state", "done", "id", "message"), cells, right=("done",))


def _model_rows(rows: Sequence[Model]) -> str:
    cells = [(row.reference, row.run, row.label, count(row.num_images), size(row.size), row.id) for row in rows]
    return table(("model", "run", "profile", "images", "size", "id"), cells, right=("images", "size"))


def _any_rows(rows: Sequence[ResponseModel]) -> str:
    return table((type(rows[0]).__name__,), [(summary(row),) for row in rows])


def _of(figures: dict[str, float | None] | None, errors: dict[str, float | None] | None, name: str | None) -> Any:
    return (figures or {}).get(name or ""), (errors or {}).get(name or "")


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_VIEWS: dict[type, Callable[[Any], str]] = {
    Run: _run,
    Reconstruction: _reconstruction,
    Evaluation: _evaluation,
    Sample: _sample,
    Preview: _preview,
    PreviewPlan: _preview_plan,
    Plan: _plan,
    Sweep: _sweep,
    Search: _search,
    ProgressCurve: _progress,
    Analysis: _analysis,
}
_LISTS: dict[type, Callable[[Any], str]] = {
    Run: _run_rows,
    Evaluation: _evaluation_rows,
    Reconstruction: _reconstruction_rows,
    Metrics: _history_rows,
    Snapshot: _snapshot_rows,
    Job: _job_rows,
    RunEvent: _event_rows,
    Model: _model_rows,
}
