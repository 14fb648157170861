"""The authentication token of a Ray cluster, looked up in the places where Ray's own tools look."""

from __future__ import annotations

import os
from pathlib import Path


def ray_token() -> str | None:
    """RAY_AUTH_TOKEN, or the contents of the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; None without any."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.exists() else None
