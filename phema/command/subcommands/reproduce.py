"""`phema reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.command.options import Connection, JsonFlag, screen, server_packages
from phema.errors import InvalidArgument

app = typer.Typer(help="Reproduce figures of the paper on a small scale.", no_args_is_help=True)


@app.callback()
def reproduce() -> None:
    """Reproduce figures of the paper on a small scale."""


@app.command()
def fig3(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder for the picture and the numbers.")
    ] = Path("reproduce"),
    images: Annotated[int, typer.Option("--images", help="Images that each configuration trains on.")] = 76_800,
    as_json: JsonFlag = False,
) -> None:
    """Train configurations C, D, E and G on the digits and plot their magnitudes (the paper's Figure 3)."""
    connection = context.find_object(Connection) or Connection()
    view = screen(as_json)
    with server_packages():
        from phema.demos.reproduce import BATCH, POINTS, reproduce_fig3

        if images < 1 or images % (BATCH * POINTS):
            raise InvalidArgument(f"--images {images} must be a positive multiple of {BATCH * POINTS}")
        outcome = reproduce_fig3(view, output, total_images=images, url=connection.url, token=connection.token)
    view.result(outcome.document, lambda: outcome.say(view))
