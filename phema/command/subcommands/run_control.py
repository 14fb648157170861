"""`phema runs pause`, `extend` and `events`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from phema.client.response_models import RunEvent
from phema.command.options import JsonFlag, Limit, RunName, client, screen
from phema.terminal.formats import when
from phema.terminal.screen import Screen


def pause(context: typer.Context, run: RunName, as_json: JsonFlag = False) -> None:
    """Pause a run: it stops after its next step and a checkpoint, and frees its CPUs and GPUs until it is resumed."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.pause(run)
    stops = f"{found.name} stops after its next step; continue it with: phema runs resume {found.name}"
    text = f"{found.name} is paused at {found.num_images:,} images" if found.state == "paused" else stops
    view.result(found.to_json(), lambda: view.say(text))


def extend(
    context: typer.Context,
    run: RunName,
    total_images: Annotated[int, typer.Argument(min=1, metavar="TOTAL_IMAGES", help="The new length, in images.")],
    as_json: JsonFlag = False,
) -> None:
    """Give a run a longer training. A succeeded run goes on at once; a running one must be paused first."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.extend(run, total_images)
    text = f"{found.name} is {found.state} at {found.num_images:,} of {found.total_images:,} images"
    way_on = "" if found.state == "queued" else f"; continue it with: phema runs resume {found.name}"
    view.result(found.to_json(), lambda: view.say(text + way_on))


def events(context: typer.Context, run: RunName, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """Print what happened to a run, when and why, oldest first."""
    view = screen(as_json)
    with client(context) as service:
        found = service.runs.events(run, limit)
    view.result(
        [event.to_json() for event in found],
        lambda: show_events(view, found) if found else view.say(f"{run} has no recorded events"),
    )


def show_events(view: Screen, events: Sequence[RunEvent], width: int | None = None) -> None:
    rows = [
        (when(event.at), event.kind, "" if event.attempt is None else str(event.attempt), _why(event))
        for event in events
    ]
    view.table(("AT", "WHAT", "ATTEMPT", "WHY"), rows, right=("ATTEMPT",), width=width)


def _why(event: RunEvent) -> str:
    """The reason, else the values before and after."""
    if event.reason is not None:
        return event.reason
    changes = {name: value for name, value in (event.details or {}).items() if not name.endswith("hash")}
    return ", ".join(
        f"{name} {value[0]} -> {value[1]}" if isinstance(value, list) and len(value) == 2 else f"{name} {value}"
        for name, value in changes.items()
    )
