"""`phema up` and `phema down`: all services on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.client.service_discovery import state_dir
from phema.command.options import JsonFlag, screen, server_packages

StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Folder of all state. Default: .phema.", envvar="PHEMA_STATE_DIR"),
]


def up(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the API; 0 chooses a free one. Default: PHEMA_API_PORT or 8400."),
    ] = None,
    folder: StateDir = None,
) -> None:
    """Run all services on this machine until Ctrl-C: API, trainer, worker, Ray."""
    from phema.local_service.up import main
    from phema.shared.settings import Settings

    given: dict[str, Any] = {"api_port": port, "state_dir": folder}
    settings = Settings(**{field: value for field, value in given.items() if value is not None})
    with server_packages():
        raise typer.Exit(main(settings, report=partial(print, flush=True)))


def down(folder: StateDir = None, as_json: JsonFlag = False) -> None:
    """Stop the `phema up` that runs from a state folder."""
    from phema.local_service.up import down as end

    view = screen(as_json)
    where = folder or state_dir()
    stopped = end(where)
    text = f"stopped the service of {where}" if stopped else f"no service runs from {where}"
    view.result({"stopped": stopped, "state_dir": str(where)}, lambda: view.say(text))
