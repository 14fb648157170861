"""`phema runs`: start, list, watch, pause, resume, extend and cancel training runs."""

from __future__ import annotations

import re
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phema.client.response_models import Attempt, Run, RunEvent
from phema.client.run_configurations import DEFAULT_PRESET, differences, own_preset
from phema.command.options import JsonFlag, Limit, RunName, RunOrPlace, RunState, client, screen, server_packages
from phema.command.run_fields import Changes, chosen_fields, naming_the_file
from phema.command.stored_runs import stored_run, stored_snapshots
from phema.command.subcommands import run_changes, run_control, run_logs
from phema.errors import InvalidArgument
from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.validation_sentences import shown
from phema.terminal.attempts import show_attempts
from phema.terminal.formats import figure, size, when
from phema.terminal.live_progress import follow_run
from phema.terminal.run_plan import show_plan
from phema.terminal.screen import Screen

_WIDTH = 80
"""Characters per line of `phema runs show` where there is no terminal."""

_EVENTS = 5
"""Latest events that `phema runs show` prints."""

app = typer.Typer(help="Start, list, watch, pause, resume, extend and cancel training runs.", no_args_is_help=True)
app.command()(run_logs.logs)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the run. Default: the preset and the time.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset to start from; `phema presets` lists them. Default: the file's, or what suits --dataset, or "
            "digits-tiny."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Folder, zip file or s3:// URL of your pictures, or digits. The service reads it: resolution, "
            "channels and classes come from it.",
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            "--held-out", min=0, max=0.99, help="Share of --dataset not to train on. Default: a tenth, at most 1,000."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the network, its cost and every mistake, and start nothing.")
    ] = False,
    name_option: Annotated[str | None, typer.Option("--name", help="The name, as an option.")] = None,
    changes: Changes = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "--config",
            exists=True,
            dir_okay=False,
            help="Run file of fields to replace: YAML, TOML or JSON, as `phema presets show --format` prints.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start a training run."""
    if name is not None and name_option is not None:
        raise InvalidArgument(f"NAME {name} and --name {name_option} both name the run; give one of them")
    own, fields = own_preset(preset, chosen_fields(file, changes))
    name, view = name or name_option, screen(as_json)
    with client(context) as service, naming_the_file(file, changes):
        if dry_run:
            plan = service.runs.plan(name, own, fields, dataset=dataset, held_out=held_out)
            view.result(plan.to_json(), lambda: show_plan(view, plan))
            return
        usual = own or (DEFAULT_PRESET if dataset is None else _name_after(dataset))
        name = name or f"{usual}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = service.runs.create(name, own, fields, dataset=dataset, held_out=held_out)
        if watch:
            view.note(f"created {run.name}")
            run = follow_run(service, view, run.name)
    way_on = "finished" if run.done else f"created; watch it with: phema runs watch {run.name}"
    view.result(run.to_json(), lambda: view.say(f"{run.name} {way_on}"))


def _name_after(dataset: str) -> str:
    """The name of a dataset's file or folder, with the characters that names of runs may have."""
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(dataset).stem)[:40]
    return allowed.lstrip("._-") or "pictures"


@app.command("list")
def list_runs(
    context: typer.Context,
    state: Annotated[RunState | None, typer.Option(help="Only runs in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs whose name contains this text.")] = None,
    origin: Annotated[str | None, typer.Option(help="Only trained, external or imported runs.")] = None,
    preset: Annotated[str | None, typer.Option(help="Only runs of this preset.")] = None,
    sort: Annotated[str | None, typer.Option(help="created, name, progress or images.")] = None,
    order: Annotated[str | None, typer.Option(help="asc or desc.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List the runs, newest first."""
    view = screen(as_json)
    with client(context) as service:
        runs = service.runs.list(state, limit, name=name, origin=origin, preset=preset, sort=sort, order=order)
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
            view.table(columns, rows, right=("IMAGES", "DONE"), spare=("CREATED", "ID"))
            if rows
            else view.say("no runs yet; start one with: phema runs create --preset digits-tiny")
        ),
    )


@app.command()
def show(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Show one run: state, latest metrics and events, what differs from its preset, the rest of the configuration."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.get(run)
        history = [] if as_json else service.runs.metrics(found.id)
        snapshots = [] if as_json else service.runs.snapshots(found.id)
        events = [] if as_json else service.runs.events(found.id)
        attempts = [] if as_json or found.job is None else service.jobs.get(found.job.id).attempt_history
    latest = history[-1].values if history else {}
    times = sorted({snapshot.num_images for snapshot in snapshots})
    view.result(found.to_json(), lambda: _describe(view, found, latest, times, events[-_EVENTS:], attempts))


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


app.command()(run_control.pause)
app.command()(run_control.extend)
app.command()(run_control.events)


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
    """Continue a paused, failed or cancelled run from its latest checkpoint, or reopen one of your own loop."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.resume(run)
    view.result(found.to_json(), lambda: view.say(f"{found.name} is {found.state} at {found.num_images:,} images"))


app.command()(run_changes.rename)
app.command()(run_changes.fork)
app.command()(run_changes.delete)
app.command()(run_changes.restore)


@app.command()
def finish(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """End the run of your own training loop. It accepts no more snapshots unless it is resumed."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.finish(run)
    view.result(found.to_json(), lambda: view.say(f"{found.name} is {found.state} at {found.num_images:,} images"))


@app.command()
def snapshots(context: typer.Context, run: RunOrPlace, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """List the stored snapshots of a run."""
    view = screen(as_json)
    if (stored := stored_run(run)) is not None:
        found = stored_snapshots(stored)[:limit]
    else:
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


@app.command()
def adopt(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder or s3:// URL that phema.SnapshotWriter wrote.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Run of a folder or bucket that holds several.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run in the service. Default: its own.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make snapshots that were written without a service a run of this one. Safe to repeat.

    Uses the catalog and the store of the settings (`PHEMA_*`), as `phema db rebuild` does.
    """
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from, store_from

    view, settings = screen(as_json), Settings()
    with server_packages(), closing(catalog_from(settings)) as catalog, view.bar(f"adopting {path}") as bar:
        from phema.administration.adoption import CannotAdopt
        from phema.administration.adoption import adopt as adopt_run
        from phema.sdk.run_folders.folder_runs import checked_name, find_run, store_at

        source = store_at(path)
        described = find_run(source, path, run)
        store = store_from(settings)
        store.check()
        catalog.upgrade()
        try:
            adopted = adopt_run(
                catalog,
                store,
                source,
                described,
                name=None if name is None else checked_name(name),
                on_progress=lambda what, done, total: bar.update(done, total, what),
            )
        except CannotAdopt as error:
            raise InvalidArgument(str(error)) from error
    for sentence in adopted.skipped.values():
        view.note(f"skipped: {sentence}")
    copied = f"{adopted.copied} files with {size(adopted.copied_bytes)} were copied" if adopted.copied else "no copy"
    view.result(
        asdict(adopted),
        lambda: view.say(f"{adopted.name} is a run of the service; new: {adopted.snapshots} snapshots; {copied}"),
    )
    if adopted.skipped:
        raise typer.Exit(1)


def _share(run: Run) -> str:
    return f"{run.num_images / run.total_images:.0%}" if _has_length(run) else "-"


def _has_length(run: Run) -> bool:
    """Whether the length of the run is known. Without a given length, an external run is as long as its snapshots."""
    progress = run.job.progress if run.job is not None else 0
    return run.origin == "trained" or run.done or bool(progress) or run.total_images > max(run.num_images, 1)


def _describe(
    view: Screen,
    run: Run,
    latest: dict[str, float | None],
    times: list[int],
    events: list[RunEvent],
    attempts: list[Attempt],
) -> None:
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
        *run_changes.lineage(run),
    ]
    if run.silent_since:
        rows.append(("silent since", when(run.silent_since)))
    if latest:
        rows.append(("loss", figure(latest.get("loss"))))
        rows.append(("images/s", figure(latest.get("images_per_second"))))
    if run.error:
        rows.append(("error", run.error))
    if run.cause:
        rows.append(("cause", run.cause))
    view.table((run.name, ""), rows, width=_WIDTH)
    if events:
        view.say("")
        run_control.show_events(view, events, width=_WIDTH)
    if attempts:
        view.say("")
        show_attempts(view, attempts, width=_WIDTH)
    different = differences(run)
    rest = {path: value for path, value in dotted_fields(run.config).items() if path not in (different or {})}
    if different:
        changed = [(path, shown(value), shown(usual)) for path, (value, usual) in different.items()]
        view.say("")
        view.table((f"differs from {run.preset}", "value", "preset"), changed, width=_WIDTH)
    elif different is not None:
        view.say(f"\nThe configuration is that of the preset {run.preset}.")
    if rest:
        view.say("")
        view.table(("configuration", ""), [(path, shown(value)) for path, value in rest.items()], width=_WIDTH)
