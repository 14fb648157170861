"""The `ray` command without the server of the Ray client, which `ray start` has no option to leave out.

Nothing in phema uses the Ray client. Its server would take a second of CPU time at each start, and one more port.
Run by its path, with the arguments of `ray`.
"""

from __future__ import annotations

import sys

from ray.scripts import scripts

if __name__ == "__main__":
    # `ray start` asks this function whether the Ray client is installed.
    scripts.get_ray_client_dependency_error = lambda: ImportError("phema does not use the Ray client")
    sys.exit(scripts.main())
