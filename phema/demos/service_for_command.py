"""A service for one command: the running one, else one that is started and ended with the command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phema.client.service_discovery import running_url, state_dir
from phema.terminal.live_progress import Detached
from phema.terminal.screen import Screen


@contextmanager
def service_for(view: Screen, url: str | None) -> Iterator[str]:
    """Yield `url`, else the address of the running service, else of a service that runs for the length of the block.

    Raises phema.local_service.service.CannotStart.
    """
    running = url or running_url(state_dir())
    if running:
        view.note(f"using the service at {running}")
        yield running
        return
    from phema.local_service.up import running_service

    try:
        with running_service(state_dir(), report=view.note) as started:
            yield started
    except Detached:
        # The service ends with the command, but its jobs are kept.
        raise Detached(f"stopped; `{command()} up` continues the work") from None


def command() -> str:
    """The command that starts phema here: `phema`, or its path when its environment is not active."""
    own = Path(sys.executable).with_name("phema")
    if shutil.which("phema") == str(own) or not own.exists():
        return "phema"
    near = os.path.relpath(own)
    return str(own) if near.startswith("..") else near
