"""`phema search` and `phema searches`: find the best EMA length, and guidance, of a run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from phema.client.client import Client
from phema.client.study_models import Search, SearchPoint
from phema.command.options import At, JsonFlag, Limit, NoWait, client, screen
from phema.command.run_names import names_of_runs
from phema.errors import InvalidArgument
from phema.terminal.formats import when, with_error
from phema.terminal.live_progress import follow_job
from phema.terminal.screen import Screen


def search(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN | SEARCH", help="A run, or the id of a search to show.", autocompletion=names_of_runs
        ),
    ],
    sigma_rel: Annotated[
        str | None, typer.Option("--sigma-rel", metavar="LOW,HIGH", help="Range of EMA lengths. Default: 0.015,0.25.")
    ] = None,
    at: At = None,
    guidance: Annotated[
        str | None,
        typer.Option("--guidance", metavar="LOW,HIGH", help="Range of guidance weights; needs --guide-sigma-rel."),
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
        str | None,
        typer.Option("--guide-sigma-rel", metavar="VALUE | LOW,HIGH", help="EMA length of the guide, or its range."),
    ] = None,
    guide_images: Annotated[
        int | None,
        typer.Option("--guide-images", min=1, help="Training time of the guide. Default: the latest."),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option("--guidance-interval", metavar="LOW,HIGH", help="Guide only at these noise levels."),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option("--figure", help="Figure to optimise. Default: the one that ranks the run's evaluations."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Largest number of pictures to draw. Default: 8000.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option("--num-steps", min=2, help="Steps of the sampler.")] = None,
    churn: Annotated[float | None, typer.Option("--churn", min=0.0, help="Amount of fresh noise.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the first picture.")] = None,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the best EMA length, and guidance, within a budget of pictures, and say how sure that is."""
    guide = {
        "run": guide_run,
        "sigma_rel": _range("--guide-sigma-rel", guide_sigma_rel, single=True),
        "num_images": guide_images,
    }
    request: dict[str, Any] = {
        "sigma_rel": _range("--sigma-rel", sigma_rel),
        "num_images": at,
        "guidance": _range("--guidance", guidance),
        "guide": {name: value for name, value in guide.items() if value is not None} or None,
        "guidance_interval": _range("--guidance-interval", guidance_interval),
        "figure": figure,
        "budget": budget,
        "num_steps": num_steps,
        "churn": churn,
        "seed": seed,
    }
    request = {name: value for name, value in request.items() if value is not None}
    if "guide" in request and "sigma_rel" not in request["guide"]:
        raise InvalidArgument("--guide-run and --guide-images need the guide's EMA length; add --guide-sigma-rel")
    view = screen(as_json)
    with client(context) as service:
        asked = _ask(service, target, request)
        if not no_wait and not asked.done:
            follow_job(service, view, asked.job.id, "searching", f"watch it again with: phema search {asked.id}")
        found = service.searches.get(asked.id)
    view.result(found.to_json(), lambda: show_search(view, found))


def searches(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only searches of this run.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List searches and their answers."""
    view = screen(as_json)
    with client(context) as service:
        found = service.searches.list(run, limit)
    rows = [[item.id, item.state, f"{item.job.progress:.0%}", when(item.created_at), _answer(item)] for item in found]
    columns = ["ID", "STATE", "DONE", "CREATED", "ANSWER"]
    view.result(
        [item.to_json() for item in found],
        lambda: view.table(columns, rows, right=("DONE",)) if rows else view.say("no searches yet"),
    )


def show_search(view: Screen, found: Search) -> None:
    """Print the points in the order in which they were chosen, and the answer."""
    if not found.points:
        view.say(f"{found.id} is {found.state}; watch it with: phema search {found.id}")
        return
    axes = list(found.points[0].point)
    figure = str(found.spec.get("figure"))
    headings = ["STEP", *(axis.upper() for axis in axes), "PICTURES", "SEEDS FROM", figure.upper(), "", "EVALUATION"]
    rows = []
    for point in found.points:
        value, error = (point.figures or {}).get(figure), (point.errors or {}).get(figure)
        row = [str(point.step + 1), *(f"{point.point[axis]:g}" for axis in axes)]
        row += [f"{point.num_samples:,}", str(point.seed), with_error(value, error)]
        rows.append([*row, _remark(point, found), point.evaluation_id or ""])
    view.table(headings, rows, right=("STEP", *(axis.upper() for axis in axes), "PICTURES", "SEEDS FROM"))
    for point in found.points:
        if point.error is not None:
            view.note(f"point {point.number}: {point.error}")
    if found.result is not None:
        view.say(f"\n{found.result.sentence}")
    elif found.error:
        view.say(f"\n{found.id} is {found.state}: {found.error}")
    else:
        view.say(f"{found.id} is {found.state}, {found.job.message or 'no point has figures yet'}")


def _ask(service: Client, target: str, request: dict[str, Any]) -> Search:
    if not target.startswith("search-"):
        return service.searches.create(target, wait=False, **request)
    if request:
        raise InvalidArgument("a search cannot change; start another search of the run, which computes nothing twice")
    return service.searches.get(target)


def _range(option: str, text: str | None, *, single: bool = False) -> list[float] | None:
    """Two numbers; with `single`, also one. Raises InvalidArgument."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1 and single:
        return values * 2
    if len(values) != 2:
        allowed = "one number, or two numbers LOW,HIGH" if single else "two numbers LOW,HIGH"
        raise InvalidArgument(f"{option} {text!r} must be {allowed}")
    return values


def _remark(point: SearchPoint, found: Search) -> str:
    result = found.result
    if result is not None and (point.point, point.num_samples) == (result.point, result.num_samples):
        return "best"
    return point.state if point.figures is None else ""


def _answer(item: Search) -> str:
    return item.result.sentence if item.result is not None else item.error or ""
