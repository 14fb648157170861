"""`phema download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.command.options import JsonFlag, client, screen
from phema.terminal.live_progress import download as fetch


def download(
    context: typer.Context,
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="Id of weights or pictures: rec-, snap-, mdl-, eval-, smp-.")
    ],
    path: Annotated[Path, typer.Argument(help="File or folder to write to.")] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """Download weights or pictures. A download that stopped resumes. The SHA-256 is verified."""
    view = screen(as_json)
    with client(context) as service:
        file = fetch(service, view, identity, path)
    view.result({"id": identity, "file": str(file), "size": file.stat().st_size}, lambda: view.say(str(file)))
