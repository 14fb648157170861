"""`python -m deploy.local FOLDER`: docker-compose.yml's cluster as processes of this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.local import cluster
from deploy.local.compose import ComposeError
from phema.local_service.service import CannotStart


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of data, logs, secrets (.env) and cluster.json")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--down", action="store_true", help="end the cluster that runs from FOLDER")
    what.add_argument("--run", metavar="SERVICE", help="run a service's command once in that cluster, such as doctor")
    what.add_argument(
        "--interval", help="interval of Prometheus's scrapes, rules and discovery, and the `for` of its alerts"
    )
    given = parser.parse_args()
    folder = given.folder.resolve()
    try:
        if given.down:
            cluster.down(folder)
            return 0
        if given.run:
            return cluster.run_once(folder, given.run)
        cluster.up(folder, interval=given.interval)
        return 0
    except (CannotStart, ComposeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
