"""Start, describe and end the cluster of one folder. `FOLDER/cluster.json` describes it while it runs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from deploy.local.addresses import Addresses, published
from deploy.local.compose import read_services, read_variables
from deploy.local.plan import plan
from phema.local_service.service import CannotStart, OnExit, Service
from phema.local_service.state_folder import StateFolder
from phema.local_service.supervisor import Member, Supervisor

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
NEW_ENV = ROOT / "deploy/new_env.sh"


def up(folder: Path, *, interval: str | None = None) -> None:
    """Run the cluster until SIGINT or SIGTERM. `interval` as in `deploy.prometheus.write_config`.

    Raises CannotStart and ComposeError.
    """
    if sys.platform != "linux":
        raise CannotStart(f"the cluster without docker runs on Linux only, this is {sys.platform}")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    state = _state(folder)
    with state.owned():
        _clear_up(state)
        # Ray's socket paths must be short.
        scratch = Path(tempfile.mkdtemp(prefix="phema-", dir="/tmp"))
        try:
            _run(state, scratch, interval, stopping)
        finally:
            shutil.rmtree(scratch)


def _run(state: StateFolder, scratch: Path, interval: str | None, stopping: threading.Event) -> None:
    folder = state.path
    if not (folder / ".env").exists():
        subprocess.run(["bash", str(NEW_ENV), str(folder / ".env")], check=True, stdout=subprocess.DEVNULL)
    services = read_services(COMPOSE, read_variables(folder / ".env"))
    addresses = Addresses.free(services)
    planned = plan(services, addresses, folder, scratch, interval=interval)
    for name in sorted(set(services) - set(planned)):
        _report(f"{name:<13} skipped       there is no program `{name}` on this machine")
    url = f"http://{planned['api'].address}"

    def on_change(member: Member) -> None:
        if member.ready:
            how = "completed" if member.service.on_exit is OnExit.COMPLETE else "healthy"
            _report(f"{member.service.name:<13} {how:<13} {member.service.address}".rstrip())
        state.write({
            "url": url,
            "prometheus": f"http://{planned['prometheus'].address}",
            "ready": supervisor.ready,
            "scratch": str(scratch),
            "ports": {name: dict(ports) for name, ports in addresses.ports.items()},
            "services": {name: _described(one) for name, one in supervisor.members.items()},
        })  # fmt: skip

    # A service with a profile, such as doctor, is started on request only.
    started = [service for name, service in planned.items() if not services[name].get("profiles")]
    supervisor = Supervisor(started, folder / "logs", report=_report, on_change=on_change)
    try:
        if supervisor.start(stopping):
            _report(f"ready; Ctrl-C ends it. In another terminal:\n  export PHEMA_URL={url}")
            _report(f"  export PHEMA_API_TOKEN=$(sed -n s/^PHEMA_API_TOKEN=//p {folder / '.env'})")
            supervisor.supervise(stopping)
        _report("stopping …")
    finally:
        supervisor.stop()


def down(folder: Path) -> None:
    """End the cluster of `folder` and wait until it has ended. Raises CannotStart when there is none."""
    state = _state(folder)
    _document(state)
    state.end_owner()
    with state.owned():
        _clear_up(state)
    _report(f"stopped the cluster of {folder}")


def run_once(folder: Path, service: str) -> int:
    """The exit code of a service's command, as with `docker compose run --rm SERVICE`.

    Raises CannotStart when no cluster runs from `folder` or compose has no such service.
    """
    document = _document(_state(folder))
    services = read_services(COMPOSE, read_variables(folder / ".env"))
    ports = {name: {int(port): here for port, here in own.items()} for name, own in document["ports"].items()}
    planned = plan(services, Addresses(ports, published(services)), folder, Path(document["scratch"]))
    if service not in planned:
        raise CannotStart(f"docker-compose.yml has no service {service}")
    chosen: Service = planned[service]
    for path in chosen.folders:
        path.mkdir(parents=True, exist_ok=True)
    return subprocess.run(chosen.command, env=dict(chosen.environment), cwd=chosen.cwd, check=False).returncode


def _state(folder: Path) -> StateFolder:
    return StateFolder(folder, document="cluster.json", lock="lock", owner="a cluster", end_command="`--down`")


def _document(state: StateFolder) -> dict[str, Any]:
    document = state.read()
    if document is None:
        raise CannotStart(f"no cluster runs from {state.path}")
    return document


def _described(member: Member) -> dict[str, Any]:
    return {
        "pid": member.pid,
        "address": member.service.address,
        "healthy": member.ready,
        "restarts": member.restarts,
        "log": str(member.log),
    }


def _clear_up(state: StateFolder) -> None:
    """Delete the temporary folder of a killed cluster."""
    if document := state.read():
        shutil.rmtree(document["scratch"], ignore_errors=True)
        state.remove_document()


def _report(line: str) -> None:
    print(line, flush=True)
