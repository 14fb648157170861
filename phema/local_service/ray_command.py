"""The `ray` command with three changes to `ray start` for which it has no options.

Run by its path, with the arguments of `ray`. The changes replace private functions of Ray.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from ray._private import services
from ray.scripts import scripts

NODE_SECONDS = 200.0
"""Time for the node to register. `ray start` gives it 30 s and then fails, which is too short on a busy machine."""


_raylets: list[subprocess.Popen[bytes]] = []


def start_and_remember(*arguments: Any, **named: Any) -> Any:
    """Ray's `start_raylet`."""
    started = start_raylet(*arguments, **named)
    _raylets.append(started.process)
    return started


def wait_for_node(*arguments: Any) -> Any:
    """Ray's `get_node`, which raises RuntimeError for a node that has not registered, tried again and again.

    Not when the node's process has ended: Ray itself would not notice.
    """
    deadline = time.monotonic() + NODE_SECONDS
    while True:
        try:
            return get_node(*arguments)
        except RuntimeError:
            for process in _raylets:
                if (code := process.poll()) is not None:
                    sys.exit(f"ray: the raylet ended with {code} before its node had registered")
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


if __name__ == "__main__":
    get_node, services.get_node = services.get_node, wait_for_node
    start_raylet, services.start_raylet = services.start_raylet, start_and_remember
    # Nothing in phema uses the Ray client. Its server would take a second of CPU time, and one more port.
    scripts.get_ray_client_dependency_error = lambda: ImportError("phema does not use the Ray client")
    sys.exit(scripts.main())
