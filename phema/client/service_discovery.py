"""The default address of the API: from the environment, or from the `service.json` that `phema up` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8400"
SERVICE_FILE = "service.json"


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """State folder of `phema up`: `PHEMA_STATE_DIR`, or `.phema` in the working directory."""
    return Path(env.get("PHEMA_STATE_DIR") or ".phema")


def find_url(env: Mapping[str, str] = os.environ) -> str:
    """Address of the API: `PHEMA_URL`, or the service that runs from the state folder, or the default address."""
    return env.get("PHEMA_URL") or running_url(state_dir(env)) or DEFAULT_URL


def running_url(folder: Path) -> str | None:
    """Address of the service that `phema up` runs from `folder`, or None.

    A killed service leaves its file behind, so the process named in the file must exist.
    """
    try:
        record = json.loads((folder / SERVICE_FILE).read_text())
        url, pid = str(record["url"]), int(record["pid"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return url if _exists(pid) else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
