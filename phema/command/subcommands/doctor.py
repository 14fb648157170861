"""`phema doctor`: check a deployment and say how to repair it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from phema.command.options import JsonFlag, screen
from phema.errors import InvalidArgument
from phema.extras import require


def doctor(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", help="Run only this check; repeatable."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Accept only a trainer and worker on this machine, as for a health check.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check a deployment with the settings of this process. Prints one line per check, with the repair if it fails."""
    require("server")
    from phema.local_service.doctor import CHECKS, examine
    from phema.shared.settings import Settings

    unknown = sorted(set(only or ()) - set(CHECKS))
    if unknown:
        raise InvalidArgument(f"--only {unknown[0]!r} is no check; allowed: {', '.join(CHECKS)}")
    view = screen(as_json)
    findings = examine(Settings(), only or (), here=here)
    sound = all(finding.state != "wrong" for finding in findings)
    document = {"sound": sound, "checks": [asdict(finding) for finding in findings]}
    view.result(document, lambda: view.say("\n".join(finding.line for finding in findings)))
    if not sound:
        raise typer.Exit(1)
