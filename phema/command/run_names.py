"""Completion of the names of runs in the shell."""

from __future__ import annotations

import os

import typer

from phema.errors import PhemaError

SECONDS = 2.0
"""Longest time that the shell waits for the service."""
MOST = 500
"""Number of the newest runs whose names are offered."""


def names_of_runs(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the service's runs that begin with `incomplete`; none if no service answers in time."""
    from phema.client.service_discovery import find_url
    from phema.client.transport import Transport

    given = context.find_root().params
    try:
        transport = Transport(given.get("url") or find_url(), given.get("token") or os.environ.get("PHEMA_API_TOKEN"))
    except PhemaError:
        return []
    transport.http.timeout = SECONDS
    try:
        names = [str(run["name"]) for run in transport.pages("/v1/runs", MOST)]
    except (PhemaError, LookupError, TypeError):
        return []
    finally:
        transport.close()
    return [name for name in names if name.startswith(incomplete)]
