"""`phema sweep` and `phema sweeps`: evaluate a run over a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from phema.client.client import Client
from phema.client.study_models import StudyPoint, Sweep
from phema.command.number_lists import counts, intervals, numbers, widths
from phema.command.options import SIGMA_REL_HELP, JsonFlag, Limit, NoWait, client, screen
from phema.command.run_names import names_of_runs
from phema.command.subcommands.evaluate import Metric
from phema.errors import InvalidArgument
from phema.shared.metrics.registry import METRICS
from phema.terminal.formats import when, with_error
from phema.terminal.live_progress import follow_job
from phema.terminal.screen import Screen


def sweep(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN | SWEEP",
            help="A run, or the id of a sweep to show or to extend.",
            autocompletion=names_of_runs,
        ),
    ],
    sigma_rel: Annotated[str | None, typer.Option("--sigma-rel", metavar="LIST", help=SIGMA_REL_HELP)] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="LIST", help="Training times in images, with snapshots. Default: the latest."),
    ] = None,
    guidance: Annotated[
        str | None, typer.Option("--guidance", metavar="LIST", help="Guidance weights; others than 1 need a guide.")
    ] = None,
    guidance_interval: Annotated[
        list[str] | None,
        typer.Option(
            "--guidance-interval",
            metavar="LOW,HIGH",
            help="Guide only at these noise levels, or `all`; repeatable.",
        ),
    ] = None,
    guide_run: Annotated[
        str | None,
        typer.Option(
            "--guide-run",
            metavar="RUN",
            help="Run of the guide. Default: the run itself.",
            autocompletion=names_of_runs,
        ),
    ] = None,
    guide_sigma_rel: Annotated[
        str | None, typer.Option("--guide-sigma-rel", metavar="LIST", help="EMA lengths of the guide.")
    ] = None,
    guide_images: Annotated[
        str | None,
        typer.Option("--guide-images", metavar="LIST", help="Training times of the guide. Default: the latest."),
    ] = None,
    num_steps: Annotated[
        str | None, typer.Option("--num-steps", metavar="LIST", help="Numbers of steps of the sampler.")
    ] = None,
    churn: Annotated[
        str | None, typer.Option("--churn", metavar="LIST", help="Amounts of fresh noise over all steps.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="LIST", help="Seeds of the first picture, each a repetition.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Number of pictures to sample at each point.")
    ] = None,
    metric: Annotated[
        list[Metric] | None, typer.Option("--metric", help="Metric to compute; repeatable. Default: those of the run.")
    ] = None,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate every point of a grid, and say which is best and how sure that is."""
    guide = {
        "run": guide_run,
        "sigma_rel": widths("--guide-sigma-rel", guide_sigma_rel),
        "num_images": counts("--guide-images", guide_images),
    }
    grid: dict[str, Any] = {
        "sigma_rel": widths("--sigma-rel", sigma_rel),
        "num_images": counts("--at", at),
        "guide": {name: value for name, value in guide.items() if value is not None} or None,
        "guidance": numbers("--guidance", guidance),
        "guidance_interval": intervals("--guidance-interval", guidance_interval),
        "num_steps": counts("--num-steps", num_steps),
        "churn": numbers("--churn", churn),
        "seed": counts("--seed", seed),
        "num_samples": num_samples,
        "metrics": metric or None,
    }
    grid = {name: value for name, value in grid.items() if value is not None}
    view = screen(as_json)
    with client(context) as service:
        asked = _ask(service, target, grid)
        if not no_wait and not asked.done:
            title = f"sweeping {asked.num_points:,} points"
            way_back = f"watch it again with: phema sweep {asked.id}"
            follow_job(service, view, asked.job.id, title, way_back)
        found = service.sweeps.get(asked.id)
    view.result(found.to_json(), lambda: show_sweep(view, found))


def sweeps(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only sweeps of this run.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List sweeps and their answers."""
    view = screen(as_json)
    with client(context) as service:
        found = service.sweeps.list(run, limit)
    rows = [
        [item.id, item.state, f"{item.num_points:,}", f"{item.job.progress:.0%}", when(item.created_at), _answer(item)]
        for item in found
    ]
    columns = ["ID", "STATE", "POINTS", "DONE", "CREATED", "ANSWER"]
    view.result(
        [item.to_json() for item in found],
        lambda: view.table(columns, rows, right=("POINTS", "DONE")) if rows else view.say("no sweeps yet"),
    )


def show_sweep(view: Screen, found: Sweep) -> None:
    """Print the points with figures and errors, best first, and the answer."""
    if not found.points:
        view.say(f"{found.id} is {found.state}; watch it with: phema sweep {found.id}")
        return
    columns = _columns(found.points)
    names = _shown_figures(found.points)
    headings = [*columns, *(name.upper() for name in names), "DIFFERENCE", "", "EVALUATION"]
    rows = []
    for point in sorted(found.points, key=lambda one: _rank(one, found)):
        figures, errors = point.figures or {}, point.errors or {}
        row = [show(point) for show in columns.values()]
        row += [with_error(figures.get(name), errors.get(name)) for name in names]
        row += [_difference(point), _remark(point, found), point.evaluation_id or ""]
        rows.append(row)
    view.table(headings, rows)
    for point in found.points:
        if point.error is not None:
            view.note(f"point {point.number}: {point.error}")
    if found.answer:
        view.say(f"\n{found.answer}")
    if not found.done:
        view.say(f"{found.id} is {found.state}, {found.job.message or 'no point has figures yet'}")


def _shown_figures(points: Sequence[StudyPoint]) -> list[str]:
    """The first figure of each metric, in the order of the list of metrics: some metrics have many figures."""
    there = {name for point in points for name in point.figures or {}}
    return [metric.figures[0].name for metric in METRICS.values() if metric.figures[0].name in there]


def _ask(service: Client, target: str, grid: dict[str, Any]) -> Sweep:
    if not target.startswith("sweep-"):
        return service.sweeps.create(target, wait=False, **grid)
    if not grid:
        return service.sweeps.get(target)
    if "metrics" in grid:
        raise InvalidArgument("--metric cannot change in an extension; start another sweep of the run")
    return service.sweeps.extend(target, wait=False, **grid)


def _columns(points: Sequence[StudyPoint]) -> dict[str, Any]:
    """Heading and text of the columns that tell the points apart."""
    columns: dict[str, Any] = {
        "PROFILE": lambda p: p.weights.label,
        "IMAGES": lambda p: f"{p.weights.num_images:,}",
        "GUIDE": lambda p: f"{p.guide.label} at {p.guide.num_images:,}" if p.guide else "-",
    }
    for name in (name for name in points[0].recipe if name != "metrics"):
        columns[name.upper()] = lambda p, name=name: _plain(p.recipe.get(name))
    return {
        heading: show
        for heading, show in columns.items()
        if heading == "PROFILE" or len({show(point) for point in points}) > 1
    }


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_plain(entry) for entry in value)
    return "-" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _rank(point: StudyPoint, found: Sweep) -> tuple[bool, float, int]:
    """Best first; points without figures last."""
    worse = 0.0 if point.number == found.best else point.difference
    return worse is None, worse or 0.0, point.number


def _difference(point: StudyPoint) -> str:
    if point.difference is None:
        return ""
    return f"+{with_error(point.difference, point.difference_error)}"


def _remark(point: StudyPoint, found: Sweep) -> str:
    if point.number == found.best:
        return "best"
    if point.figures is None:
        return point.state
    return "not told from the best" if point.distinct is False else ""


def _answer(item: Sweep) -> str:
    return str(item.result["sentence"]) if item.result else item.error or ""
