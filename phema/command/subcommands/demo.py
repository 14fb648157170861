"""`phema demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.command.options import Connection, JsonFlag, screen, server_packages


def demo(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder for the pictures and the report.")
    ] = Path("demo"),
    as_json: JsonFlag = False,
) -> None:
    """Train on the digits, choose the EMA length afterwards, write a report: all steps in about five minutes."""
    connection = context.find_object(Connection) or Connection()
    view = screen(as_json)
    with server_packages():
        from phema.demos.demo import run_demo

        outcome = run_demo(view, output, url=connection.url, token=connection.token)
    view.result(outcome.document, lambda: outcome.say(view))
