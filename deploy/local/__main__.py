"""`python -m deploy.local FOLDER`: docker-compose.yml's cluster as processes of this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import IO

from deploy.local.cluster import Cluster, run_once
from deploy.local.compose import ComposeError
from deploy.local.process import CannotRun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("folder", type=Path, help="where data, logs, secrets (.env) and cluster.json are")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--down", action="store_true", help="end the cluster that runs from FOLDER")
    what.add_argument("--run", metavar="SERVICE", help="run a service's command once, such as doctor, in that cluster")
    what.add_argument("--interval", help="Prometheus's: of scrapes, rules and discovery, and how long alerts must hold")
    given = parser.parse_args()
    folder = given.folder.resolve()
    try:
        if given.down:
            return down(folder)
        if given.run:
            return run(folder, given.run)
        return up(folder, interval=given.interval)
    except (CannotRun, ComposeError) as error:
        print(error, file=sys.stderr)
        return 1


def up(folder: Path, *, interval: str | None = None) -> int:
    """Run the cluster until SIGINT or SIGTERM. Raises CannotRun and ComposeError."""
    if sys.platform != "linux":
        raise CannotRun(f"the cluster without docker runs on Linux only, this is {sys.platform}")
    stopping = threading.Event()
    with _lock(folder, wait=False):
        _clear_up(folder)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        cluster = Cluster(folder, interval=interval, report=lambda line: print(line, flush=True))
        for name in cluster.skipped:
            print(f"{name:<13} skipped       there is no program `{name}` on this machine", flush=True)

        def ready() -> None:
            print(f"ready; Ctrl-C ends it. In another terminal:\n  export PHEMA_URL=http://{cluster.address('api')}")
            print(f"  export PHEMA_API_TOKEN=$(sed -n s/^PHEMA_API_TOKEN=//p {folder / '.env'})", flush=True)

        try:
            cluster.keep_running(stopping, ready)
            print("stopping …", flush=True)
        finally:
            cluster.stop()
    return 0


def down(folder: Path) -> int:
    """End the cluster that runs from `folder`, and wait for its end. Raises CannotRun when there is none."""
    pid = _document(folder)["pid"]
    try:
        lock = _lock(folder, wait=False)  # free: it was killed, and its processes with it
    except CannotRun:
        os.kill(pid, signal.SIGTERM)
        lock = _lock(folder, wait=True)
    with lock:
        _clear_up(folder)
    print(f"stopped the cluster of {folder}")
    return 0


def run(folder: Path, service: str) -> int:
    """The exit code of the service's command. Raises CannotRun."""
    _document(folder)
    try:
        return run_once(folder, service)
    except KeyError:
        raise CannotRun(f"docker-compose.yml has no service {service}") from None


def _document(folder: Path) -> dict[str, int]:
    try:
        document: dict[str, int] = json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        raise CannotRun(f"no cluster runs from {folder}") from None
    return document


def _lock(folder: Path, *, wait: bool) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        lock.close()
        raise CannotRun(f"a cluster runs from {folder} already; end it with --down") from None
    return lock


def _clear_up(folder: Path) -> None:
    """What a killed cluster has left."""
    file = folder / "cluster.json"
    if file.exists():
        shutil.rmtree(json.loads(file.read_text())["scratch"], ignore_errors=True)
        file.unlink()


if __name__ == "__main__":
    sys.exit(main())
