"""Options that several commands share, and the way from a command to its client and screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phema.client.client import Client
from phema.command.sigma_rel_lists import RangeError, sigma_rels
from phema.errors import InvalidArgument, PhemaError
from phema.terminal.screen import Screen

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Show so many at most.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as the work is accepted.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name or id of a run.")]
At = Annotated[
    int | None,
    typer.Option(
        "--at",
        min=1,
        metavar="NUM_IMAGES",
        help="Training time, a number of images with a snapshot; default the latest.",
    ),
]
SIGMA_REL_HELP = "EMA lengths: 0.1, a list 0.05,0.1 or a range 0.05,0.10,...,0.25."


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class State(StrEnum):
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


@dataclass(frozen=True)
class Connection:
    """Where the command's global options point."""

    url: str | None = None
    token: str | None = None


@contextmanager
def client(context: typer.Context) -> Iterator[Client]:
    """The service that `--url`, the environment or `phema up` names."""
    connection = context.find_object(Connection) or Connection()
    with Client(connection.url, connection.token) as opened:
        yield opened


@contextmanager
def plainly() -> Iterator[None]:
    """Failures of the machine under a local command (port, database, store) in their own sentence."""
    from phema.local_service.service import CannotStart
    from phema.shared.catalog.errors import CatalogError
    from phema.shared.snapshots.errors import SnapshotError

    try:
        yield
    except (CannotStart, CatalogError, SnapshotError) as error:
        raise PhemaError(str(error)) from error


def screen(as_json: bool) -> Screen:
    return Screen(as_json)


def wanted_sigma_rels(text: str) -> list[float]:
    """The values of a `--sigma-rel` option; a mistake becomes a usage error."""
    try:
        return list(sigma_rels(text))
    except RangeError as error:
        raise InvalidArgument(str(error)) from None


def folder(path: Path | None) -> Path | None:
    """An `--output` folder, made if need be."""
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"--output {path} cannot be a folder: {error.strerror}") from None
    return path
