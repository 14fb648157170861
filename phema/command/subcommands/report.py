"""`phema report`: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.command.options import JsonFlag, client, screen
from phema.command.run_names import names_of_runs


def report(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Names or ids; several runs are compared.", autocompletion=names_of_runs),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The HTML file to write.", dir_okay=False)
    ] = Path("report.html"),
    as_json: JsonFlag = False,
) -> None:
    """Write a report of runs: EMA lengths with errors, grids from the same seeds, magnitudes. Nothing is computed."""
    view = screen(as_json)
    with client(context) as service:
        file = service.report(runs, output)
    view.result({"runs": runs, "report": str(file)}, lambda: view.say(f"look at {file}"))
