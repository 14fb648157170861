"""The running topology: started in compose's order, kept running, ended in the reverse order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.addresses import Addresses, published
from deploy.local.compose import read_services, read_variables
from deploy.local.member import Member
from deploy.local.plan import plan
from deploy.local.process import Process

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
NEW_ENV = ROOT / "deploy/new_env.sh"
LOOK_SECONDS = 0.1
Report = Callable[[str], None]


class Cluster:
    """All services in one folder; one thread's. `interval` as for `deploy.prometheus.elsewhere`."""

    def __init__(self, folder: Path, *, interval: str | None = None, report: Report = print) -> None:
        self.folder, self._report = folder, report
        self.variables = secrets(folder)
        services = read_services(COMPOSE, self.variables)
        self._profiles = {name for name, service in services.items() if service.get("profiles")}
        self.addresses = Addresses.free(services)
        # Ray's sockets have short names only, and what is here goes with the cluster.
        self.scratch = Path(tempfile.mkdtemp(prefix="phema-", dir="/tmp"))
        self._interval = interval
        self._told: set[str] = set()
        self._restarts: dict[str, int] = {}
        try:
            planned = plan(services, self.addresses, folder, self.scratch, interval=interval)
        except BaseException:
            shutil.rmtree(self.scratch)
            raise
        self.skipped = sorted(set(services) - set(planned))
        run, logs = self.scratch / "run", folder / "logs"
        for process in planned.values():
            process.folder.mkdir(parents=True, exist_ok=True)
        self.members = {
            name: Member(process, logs / f"{name}.log", run=run)
            for name, process in planned.items()
            if name not in self._profiles
        }

    def keep_running(self, stopping: threading.Event, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready` when all is healthy, start again what dies, until `stopping` is set.

        Raises CannotRun when a service does not start.
        """
        was_ready = False
        while not stopping.wait(LOOK_SECONDS):
            before = self._state()
            for member in self.members.values():
                if member.started:
                    member.look()
                elif self._may_start(member.process):
                    member.start()
            self._tell()
            if self._state() != before:
                self._write()
            if not was_ready and all(member.ready for member in self.members.values()):
                was_ready = True
                on_ready()

    def stop(self) -> None:
        """End all, what needs another before that other; then the temporary folder goes."""
        left = {name: member for name, member in self.members.items() if member.started}
        while left:
            needed = {other for member in left.values() for other in member.process.needs or {}}
            free = [member for name, member in left.items() if name not in needed]
            for member in free:
                member.ask_to_end()
            for member in free:
                member.wait()
                del left[member.process.name]
        self._file.unlink(missing_ok=True)
        shutil.rmtree(self.scratch)

    def address(self, service: str) -> str:
        return self.members[service].process.address

    def _may_start(self, process: Process) -> bool:
        return all(self.members[other].ready for other in process.needs or {})

    def _tell(self) -> None:
        for name, member in self.members.items():
            if member.ready and name not in self._told:
                self._told.add(name)
                what = "done" if member.process.once else "healthy"
                self._report(f"{name:<13} {what:<13} {member.process.address}".rstrip())
            elif not member.ready and member.restarts > self._restarts.get(name, 0):
                self._told.discard(name)
                self._restarts[name] = member.restarts
                self._report(f"{name:<13} started again {member.process.address}".rstrip())

    def _state(self) -> list[tuple[bool, bool, int]]:
        return [(member.started, member.ready, member.restarts) for member in self.members.values()]

    @property
    def _file(self) -> Path:
        return self.folder / "cluster.json"

    def _write(self) -> None:
        members = self.members.items()
        document = {
            "pid": os.getpid(),
            "url": f"http://{self.address('api')}",
            "prometheus": f"http://{self.address('prometheus')}",
            "ready": all(member.ready for _, member in members),
            "scratch": str(self.scratch),
            "ports": {name: dict(ports) for name, ports in self.addresses.ports.items()},
            "services": {
                name: {
                    "pid": member.pid,
                    "address": member.process.address,
                    "healthy": member.ready,
                    "restarts": member.restarts,
                    "log": str(member.log),
                }
                for name, member in members
            },
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(document, indent=2) + "\n")
        new.replace(self._file)


def secrets(folder: Path) -> dict[str, str]:
    """The folder's .env, made as compose's is where there is none."""
    path = folder / ".env"
    if not path.exists():
        subprocess.run(["bash", str(NEW_ENV), str(path)], check=True, stdout=subprocess.DEVNULL)
    return read_variables(path)


def run_once(folder: Path, service: str) -> int:
    """As `docker compose run --rm SERVICE`, in the cluster that runs from `folder`; the exit code.

    Raises KeyError for a service that there is not, FileNotFoundError where no cluster runs.
    """
    document: dict[str, Any] = json.loads((folder / "cluster.json").read_text())
    services = read_services(COMPOSE, read_variables(folder / ".env"))
    ports = {name: {int(port): here for port, here in own.items()} for name, own in document["ports"].items()}
    addresses = Addresses(ports, published(services))
    process = plan(services, addresses, folder, Path(document["scratch"]))[service]
    for path in (process.folder, process.scratch):
        path.mkdir(parents=True, exist_ok=True)
    return subprocess.run(process.command, env=dict(process.environment), cwd=process.folder, check=False).returncode
