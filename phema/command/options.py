"""Options that several commands share, and how a command gets its client and screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phema.client.client import Client
from phema.command.run_names import names_of_runs
from phema.errors import InvalidArgument, PhemaError
from phema.extras import require
from phema.terminal.screen import Screen

JsonFlag = Annotated[bool, typer.Option("--json", help="Print only one JSON document on stdout.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Largest number of rows.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as the work is accepted.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name or id of a run.", autocompletion=names_of_runs)]
RunOrPlace = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Name or id of a run, or a folder or s3:// URL of snapshots.", autocompletion=names_of_runs
    ),
]
At = Annotated[
    int | None,
    typer.Option(
        "--at",
        min=1,
        metavar="NUM_IMAGES",
        help="Training time in images; must have a snapshot. Default: the latest.",
    ),
]
SIGMA_REL_HELP = "EMA lengths: 0.1, a list 0.05,0.1 or a range 0.05,0.10,...,0.25."


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class State(StrEnum):
    """States of jobs."""

    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class RunState(StrEnum):
    queued = "queued"
    starting = "starting"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


@dataclass(frozen=True)
class Connection:
    """The values of the global options."""

    url: str | None = None
    token: str | None = None


@contextmanager
def client(context: typer.Context) -> Iterator[Client]:
    """A client of the service that `--url`, the environment or `phema up` names."""
    connection = context.find_object(Connection) or Connection()
    with Client(connection.url, connection.token) as opened:
        yield opened


@contextmanager
def server_packages() -> Iterator[None]:
    """Around what only the server packages can do: start services, use the catalog.

    Raises MissingPackages without the packages. Failures of a service, the catalog or the store become a PhemaError
    with their own sentence.
    """
    require("server")
    from phema.local_service.service import CannotStart
    from phema.shared.catalog.errors import CatalogError

    with store_failures():
        try:
            yield
        except (CannotStart, CatalogError) as error:
            raise PhemaError(str(error)) from error


@contextmanager
def store_failures() -> Iterator[None]:
    """Turn failures of the object store into a PhemaError with their own sentence."""
    from phema.shared.snapshots.errors import SnapshotError

    try:
        yield
    except SnapshotError as error:
        raise PhemaError(str(error)) from error


def screen(as_json: bool) -> Screen:
    return Screen(as_json)


def folder(path: Path | None) -> Path | None:
    """Create the folder of an `--output` option if it does not exist."""
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"--output {path} cannot be a folder: {error.strerror}") from None
    return path


def interval(text: str) -> list[float]:
    """The two noise levels of `--guidance-interval`."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"--guidance-interval {text!r} must be two noise levels LOW,HIGH, such as 0.2,1.6"
        ) from None
    return [low, high]
