"""`phema runs rename`, `fork`, `delete` and `restore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from phema.client.response_models import Run, RunDeletion
from phema.command.options import JsonFlag, RunName, client, screen
from phema.command.run_fields import Changes, chosen_fields, naming_the_file
from phema.errors import InvalidArgument
from phema.terminal.formats import size, when
from phema.terminal.screen import Screen


def rename(
    context: typer.Context,
    run: RunName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    as_json: JsonFlag = False,
) -> None:
    """Give a run another name, also while it trains. Its id stays."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.rename(run, name)
    view.result(found.to_json(), lambda: view.say(f"{run} is now {found.name}"))


def fork(
    context: typer.Context,
    run: RunName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new run.")],
    at: Annotated[
        int | None,
        typer.Option(
            "--at", min=1, metavar="NUM_IMAGES", help="Continue the checkpoint at this time. Default: the latest."
        ),
    ] = None,
    reconstruction: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RECONSTRUCTION", help="Begin at 0 images with the weights of this reconstruction."
        ),
    ] = None,
    changes: Changes = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "--config", exists=True, dir_okay=False, help="Run file of fields to replace."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start a new run from a checkpoint or a reconstruction of another, with changed settings."""
    if at is not None and reconstruction is not None:
        raise InvalidArgument("--at and --from both name what the run begins from; give one of them")
    view, fields = screen(as_json), chosen_fields(file, changes)
    with client(context) as service, naming_the_file(file, changes):
        found = service.runs.fork(run, name, fields, num_images=at, reconstruction=reconstruction)
    text = f"{found.name} begins at {found.num_images:,} images; watch it with: phema runs watch {found.name}"
    view.result(found.to_json(), lambda: view.say(text))


def delete(
    context: typer.Context,
    run: RunName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted and what stands against it.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete at once: the run cannot be restored.")] = False,
    grace: Annotated[
        float | None,
        typer.Option("--grace", min=0, metavar="HOURS", help="Hours until the run is deleted. Default: the service's."),
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="Also delete the models promoted from it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --now deletes.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a run and everything made of it, after a time in which `phema runs restore` keeps it."""
    if now and grace is not None:
        raise InvalidArgument(f"--now and --grace {grace:g} both say when the run is deleted; give one of them")
    view, hours = screen(as_json), 0.0 if now else grace
    with client(context) as service:
        if now and not dry_run and not yes:
            _ask(view, service.runs.delete(run, dry_run=True, grace_hours=hours, models=models))
        found = service.runs.delete(run, dry_run=dry_run, grace_hours=hours, models=models)
    view.result(found.to_json(), lambda: _show(view, found))


def restore(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Keep a run that was to be deleted. Its cancelled jobs stay cancelled; `phema runs resume` trains on."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.restore(run)
    view.result(found.to_json(), lambda: view.say(f"{found.name} is kept"))


def lineage(run: Run) -> list[tuple[str, str]]:
    """Lines of `phema runs show` about a fork's parent and a coming deletion."""
    lines = []
    if run.parent is not None:
        source = run.parent.reconstruction_id or "the checkpoint"
        lines.append(("forked from", f"{run.parent.run_id}, {source} at {run.parent.num_images:,} images"))
    if run.delete_at is not None:
        lines.append(("deleted at", f"{when(run.delete_at)}; keep it with: phema runs restore {run.name}"))
    return lines


def _ask(view: Screen, plan: RunDeletion) -> None:
    """Let the user confirm. Raises InvalidArgument without a terminal."""
    if not sys.stdin.isatty():
        raise InvalidArgument("--now deletes at once and there is no terminal to ask on; give --yes as well")
    view.note(f"{plan.name} has {sum(one.objects for one in plan.stored)} files with {size(plan.bytes)}")
    if not typer.confirm("Delete them now?", err=True):
        raise typer.Exit(1)


def _show(view: Screen, found: RunDeletion) -> None:
    rows = [(one.kind, str(one.objects), size(one.bytes)) for one in found.stored]
    rows.append(("all", str(sum(one.objects for one in found.stored)), size(found.bytes)))
    view.table(("STORED", "FILES", "SIZE"), rows, right=("FILES", "SIZE"))
    if found.cancelled_jobs:
        view.say(f"unfinished jobs of the run, which are cancelled: {len(found.cancelled_jobs)}")
    for sentence in found.refused:
        view.say(f"refused: {sentence}")
    if found.dry_run:
        view.say("nothing was changed")
    else:
        view.say(
            f"{found.name} will be deleted at {when(found.delete_at)}; keep it with: phema runs restore {found.name}"
        )
