"""One service of the topology as a process of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class CannotRun(RuntimeError):
    """This machine lacks what the topology needs; the message is one sentence for the user."""


@dataclass(frozen=True)
class Check:
    """A health check: a command that ends with 0 when the service can be used. Times in seconds."""

    command: tuple[str, ...]
    timeout: float
    start: float
    """What the service has from its start to the first check that counts, and all retries."""


@dataclass(frozen=True)
class Process:
    """`folder` is its working directory and home, which stays; `scratch` its temporary folder, which does not."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    scratch: Path
    volume: Path | None = None
    address: str = ""
    """host:port where others find it, if they do."""
    needs: Mapping[str, str] | None = None
    """Other services that must be there first: name -> compose's condition."""
    check: Check | None = None
    once: bool = False
    """It ends by itself, with code 0."""
    grace: float = 10.0
    stop_signal: str = "SIGTERM"
    setup: Callable[[], None] | None = None
    """What its image would do before the command; raises CannotRun."""


@dataclass(frozen=True)
class Place:
    """What a program that stands in for another's image is told of its service."""

    environment: Mapping[str, str]
    command: str
    volume: Path
    scratch: Path
    check: Check


@dataclass(frozen=True)
class Program:
    """What runs instead of an image."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    check: Check
    setup: Callable[[], None] | None = None
    stop_signal: str = "SIGTERM"
