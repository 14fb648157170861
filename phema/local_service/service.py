"""What a supervisor runs: a service's command, its health check, what it needs first and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class CannotStart(RuntimeError):
    """A service cannot start on this machine. The message is one sentence for the user."""


class ServiceFailed(CannotStart):
    """A service exited, or was not healthy in time."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


class OnExit(Enum):
    """What the supervisor does when a service exits."""

    COMPLETE = "complete"
    """Exit code 0 makes the service ready; any other code raises ServiceFailed."""
    RESTART = "restart"
    """Start it again. Before it was healthy for the first time, only until `Check.start` seconds have passed."""
    RESTART_AFTER_START = "restart after start"
    """Start it again once all services have been ready; before that, raise ServiceFailed."""
    FAIL = "fail"
    """Raise ServiceFailed, at any time."""


@dataclass(frozen=True)
class Check:
    """A health check: `command` exits with code 0 when the service can be used. Times in seconds."""

    command: tuple[str, ...]
    timeout: float
    start: float
    """From the first start of the service until it must be healthy."""


@dataclass(frozen=True)
class Service:
    """`environment` is complete: nothing is inherited. Without `check`, a started service is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path | None = None
    folders: tuple[Path, ...] = ()
    """Folders to create before the start."""
    address: str = ""
    """host:port where others reach the service, if they do."""
    needs: tuple[str, ...] = ()
    """Services that must be ready before this one starts, and that end after it."""
    uses: tuple[str, ...] = ()
    """Services that end after this one, but may become ready later than it starts."""
    check: Check | None = None
    on_exit: OnExit = OnExit.RESTART
    grace: float = 10.0
    """Seconds from the request to end until SIGKILL."""
    setup: Callable[[], None] | None = None
    """Called before each start; raises CannotStart."""
    reap: bool = False
    """Run the command under `reaper.py` (Linux only), which kills the daemons that the command leaves behind."""
    stop_signal: str = "SIGTERM"
    """Signal that asks the command to end; others than SIGTERM need `reap`."""


def http_check(url: str) -> tuple[str, ...]:
    """Command of a health check that succeeds when `url` answers with a status below 400."""
    ask = f"import urllib.request as u; u.build_opener(u.ProxyHandler({{}})).open('{url}', timeout=5)"
    return (sys.executable, "-S", "-c", ask)
