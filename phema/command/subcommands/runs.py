"""`phema runs`: start, list, watch, cancel and resume training runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.client.response_models import Run
from phema.command.options import JsonFlag, Limit, RunName, State, client, screen
from phema.errors import InvalidArgument
from phema.terminal.formats import figure, size, when
from phema.terminal.live_progress import follow_run
from phema.terminal.screen import Screen

app = typer.Typer(help="Start, list, watch, cancel and resume training runs.", no_args_is_help=True)


@app.command()
def create(
    context: typer.Context,
    preset: Annotated[str, typer.Option(help="Preset to start from; `phema presets` lists them.")] = "digits-tiny",
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: the preset and the time.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field, such as network.dropout=0.1; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", exists=True, dir_okay=False, help="JSON file of fields to replace.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start a training run."""
    overrides = _read(config) if config is not None else {}
    for change in changes or []:
        _set(overrides, change)
    view = screen(as_json)
    with client(context) as service:
        run = service.runs.create(name or f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}", preset, overrides)
        if watch:
            view.note(f"created {run.name}")
            run = follow_run(service, view, run.name)
    way_on = "finished" if run.done else f"created; watch it with: phema runs watch {run.name}"
    view.result(run.to_json(), lambda: view.say(f"{run.name} {way_on}"))


@app.command("list")
def list_runs(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List the runs, newest first."""
    view = screen(as_json)
    with client(context) as service:
        runs = service.runs.list(state, limit)
    rows = [
        (
            r.name,
            r.state,
            r.preset or r.origin,
            f"{r.num_images:,}",
            _share(r),
            when(r.created_at),
            r.id,
        )
        for r in runs
    ]
    columns = ("NAME", "STATE", "PRESET", "IMAGES", "DONE", "CREATED", "ID")
    view.result(
        [run.to_json() for run in runs],
        lambda: (
            view.table(columns, rows, right=("IMAGES", "DONE"))
            if rows
            else view.say("no runs yet; start one with: phema runs create --preset digits-tiny")
        ),
    )


@app.command()
def show(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Show one run: state, latest metrics, configuration."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.get(run)
        history = [] if as_json else service.runs.metrics(found.id)
        snapshots = [] if as_json else service.runs.snapshots(found.id)
    latest = history[-1].values if history else {}
    times = sorted({snapshot.num_images for snapshot in snapshots})
    view.result(found.to_json(), lambda: _describe(view, found, latest, times))


@app.command()
def watch(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Watch a run until it ends: images, images/s, loss, ETA. Ctrl-C stops watching, not the run."""
    view = screen(as_json)
    with client(context) as service:
        ended = follow_run(service, view, run)
    view.result(
        ended.to_json(),
        lambda: view.say(
            f"{ended.name} is trained; next: phema reconstruct {ended.name} --sigma-rel 0.05,0.10,...,0.25"
        ),
    )


@app.command()
def cancel(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Cancel a run. Its snapshots and checkpoints stay."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.cancel(run)
    text = f"{found.name} is {found.state}" if found.done else f"{found.name} was asked to stop"
    view.result(found.to_json(), lambda: view.say(text))


@app.command()
def resume(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Continue a failed or cancelled run from its latest checkpoint, or reopen a run of your own training loop."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.resume(run)
    view.result(found.to_json(), lambda: view.say(f"{found.name} is {found.state} at {found.num_images:,} images"))


@app.command()
def finish(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """End the run of your own training loop. It accepts no more snapshots unless it is resumed."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.finish(run)
    view.result(found.to_json(), lambda: view.say(f"{found.name} is {found.state} at {found.num_images:,} images"))


@app.command()
def snapshots(context: typer.Context, run: RunName, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """List the stored snapshots of a run."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.snapshots(run, limit)
    rows = [
        (f"{s.num_images:,}", s.average, size(s.size), "pinned" if s.pinned else "", when(s.created_at), s.id)
        for s in found
    ]
    columns = ("IMAGES", "SIGMA_REL", "SIZE", "KEPT", "CREATED", "ID")
    view.result(
        [snapshot.to_json() for snapshot in found],
        lambda: view.table(columns, rows, right=columns[:3]) if rows else view.say(f"{run} has stored no snapshot yet"),
    )


@app.command()
def metrics(context: typer.Context, run: RunName, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """Print the history of a run. --json includes every magnitude."""
    view = screen(as_json)
    with client(context) as service:
        history = service.runs.metrics(run, limit=limit)
    names = ("loss", "learning_rate", "images_per_second", "grad_nonfinite")
    rows = [(f"{line.num_images:,}", *(figure(line.values.get(name)) for name in names)) for line in history]
    columns = ("IMAGES", *(name.upper() for name in names))
    view.result(
        [line.to_json() for line in history],
        lambda: view.table(columns, rows, right=columns) if rows else view.say(f"{run} has no history yet"),
    )


def _share(run: Run) -> str:
    return f"{run.num_images / run.total_images:.0%}" if _has_length(run) else "-"


def _has_length(run: Run) -> bool:
    """Whether the length of the run is known. Without a given length, an external run is as long as its snapshots."""
    progress = run.job.progress if run.job is not None else 0
    return run.origin == "trained" or run.done or bool(progress) or run.total_images > max(run.num_images, 1)


def _describe(view: Screen, run: Run, latest: dict[str, float | None], times: list[int]) -> None:
    rows = [
        ("id", run.id),
        ("state", run.state),
        ("preset", run.preset) if run.preset else ("origin", run.origin),
        (
            "images",
            f"{run.num_images:,} of {run.total_images:,} ({_share(run)})"
            if _has_length(run)
            else f"{run.num_images:,}",
        ),
        ("snapshots", f"at {len(times)} times, latest {times[-1]:,}" if times else "none yet"),
        ("created", when(run.created_at)),
    ]
    if latest:
        rows.append(("loss", figure(latest.get("loss"))))
        rows.append(("images/s", figure(latest.get("images_per_second"))))
    if run.error:
        rows.append(("error", run.error))
    rows += [(f"config.{key}", json.dumps(value)) for key, value in run.config.items()]
    view.table((run.name, ""), rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"--config {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"--config {path} must hold a JSON object of fields, not {type(value).__name__}")
    return value


def _set(overrides: dict[str, Any], change: str) -> None:
    """Put `a.b=VALUE` into the nested `overrides`. VALUE is JSON; anything else is text."""
    field, equals, text = change.partition("=")
    if not equals or not all(field.split(".")):
        raise InvalidArgument(f"--set {change!r} must look like FIELD=VALUE, as in --set network.dropout=0.1")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *parents, last = field.split(".")
    for parent in parents:
        overrides = overrides.setdefault(parent, {})
        if not isinstance(overrides, dict):
            raise InvalidArgument(f"--set {change!r} goes into {parent}, which was given a plain value before")
    overrides[last] = value
