"""The address of the API: from the environment, or from the `service.json` that `phema up` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from phema.errors import ServiceUnreachable

SERVICE_FILE = "service.json"
LOCK_FILE = "up.lock"
"""`phema up` holds a lock on this file of its state folder as long as it runs."""


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """State folder of `phema up`: `PHEMA_STATE_DIR`, or `.phema` in the working directory."""
    return Path(env.get("PHEMA_STATE_DIR") or ".phema")


def find_url(env: Mapping[str, str] = os.environ) -> str:
    """Address of the API: `PHEMA_URL`, or the service that runs from the state folder.

    Raises ServiceUnreachable when neither names one: a service on a usual port may be another user's.
    """
    folder = state_dir(env)
    url = env.get("PHEMA_URL") or running_url(folder)
    if url:
        return url
    if _is_owned(folder):
        raise ServiceUnreachable(f"the service of state folder {folder} is still starting; try again when it is ready")
    raise ServiceUnreachable(
        f"no service runs from state folder {folder}; start one with `phema up`, or give the address of another one "
        "with --url or PHEMA_URL"
    )


def running_url(folder: Path) -> str | None:
    """Address of the service that `phema up` runs from `folder`, or None.

    A killed service leaves its file behind, but not its lock.
    """
    try:
        url = str(json.loads((folder / SERVICE_FILE).read_text())["url"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return None
    return url if _is_owned(folder) else None


def _is_owned(folder: Path) -> bool:
    """Whether a `phema up` runs from the folder."""
    try:
        lock = (folder / LOCK_FILE).open()
    except OSError:
        return False
    import fcntl  # Unix only, as is `phema up`

    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
