"""`phema runs logs`: what an attempt at a training has written."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from phema.command.options import RunName, client
from phema.terminal.live_progress import detachable


def logs(
    context: typer.Context,
    run: RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until the attempt ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Number of the attempt. Default: the latest.")
    ] = None,
) -> None:
    """Print the log of an attempt at a training. Ctrl-C stops printing, not the run."""
    way_back = f"detached; {run} is not stopped, follow it again with: phema runs logs -f {run}"
    with client(context) as service, detachable(way_back):
        for text in service.runs.logs(run, attempt, follow=follow):
            sys.stdout.write(text)
            sys.stdout.flush()
