"""Health check of a Ray head: exits with 0 when the cluster can run jobs.

Run by its path, with nothing but the standard library. Reads PHEMA_RAY_DASHBOARD_URL and RAY_AUTH_TOKEN.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any


def main() -> str | None:
    """None when the cluster is healthy, else what is missing."""
    try:
        # The Jobs endpoint answers well before the node can run anything, so both are asked.
        ask("/api/jobs/")
        nodes = ask("/nodes?view=summary")["data"]["summary"]
    except OSError as error:
        return str(error)
    alive = any(node["raylet"].get("state") == "ALIVE" for node in nodes)
    return None if alive else "no node is alive"


def ask(path: str) -> Any:
    request = urllib.request.Request(
        os.environ["PHEMA_RAY_DASHBOARD_URL"] + path,
        headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
    )
    # No proxy: the dashboard is on this machine.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
