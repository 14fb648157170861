"""docker-compose.yml as it is, in a project of its own: start, look, kill, end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deploy.local.compose import read_services, read_variables
from phema import Client
from phema.local_service.processes import free_port
from tests.containers.engine import Engine
from tests.containers.images import COMPOSE, PHEMA, ROOT

PROJECT = "phema-test"
HEALTHY_SECONDS = 900.0
PORTS = ("API", "MINIO", "MINIO_CONSOLE", "RAY", "PROMETHEUS", "GRAFANA")

Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], what: str, *, within_s: float = HEALTHY_SECONDS) -> Found:
    """The first result of `look` that is true. Raises AssertionError, which names `what`, after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(1)
    return found


@dataclass(frozen=True)
class Deployment:
    """`env_file` holds the secrets and choices, as .env does for a user."""

    engine: Engine
    env_file: Path

    @classmethod
    def new(cls, engine: Engine, folder: Path) -> Deployment:
        """Writes the .env file as a user does, with free ports."""
        file = folder / "env"
        subprocess.run(["bash", str(ROOT / "deploy/new_env.sh"), str(file)], check=True, capture_output=True)
        # In place, because other lines use PORT_MINIO.
        text = file.read_text()
        for name in PORTS:
            before, line, after = text.partition(f"PORT_{name}=")
            text = f"{before}{line}{free_port()}\n{after.partition(chr(10))[2]}"
        file.write_text(text)
        return cls(engine, file)

    def choose(self, variables: Mapping[str, str]) -> None:
        with self.env_file.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    @property
    def variables(self) -> dict[str, str]:
        return read_variables(self.env_file)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        return read_services(COMPOSE, self.variables)

    @property
    def lasting(self) -> list[str]:
        """Names of the services that stay up, in the order of the file."""
        return [name for name, one in self.services.items() if one["restart"] != "no" and "profiles" not in one]

    def compose(self, *arguments: str, check: bool = True) -> str:
        words = (f"--project-name={PROJECT}", f"--env-file={self.env_file}", f"--file={COMPOSE}")
        return self.engine.call(*words, *arguments, command=self.engine.compose, check=check)

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build")
        self.wait_until_healthy()

    def down(self, *, volumes: bool = False) -> None:
        self.compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))

    def wait_until_healthy(self, services: Sequence[str] = ()) -> None:
        """Wait for these services, by default for all that stay up."""
        for name in services or self.lasting:
            eventually(lambda name=name: self.health(name) == "healthy", f"{name} is healthy; {self.logs(name)}")  # type: ignore[misc]

    def health(self, service: str) -> str:
        state = self.state(service)
        return str(state.get("Health", {}).get("Status", state.get("Status")))

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of the service's container; empty if there is none."""
        ids = self._containers(service)
        if not ids:
            return {}
        found: dict[str, Any] = json.loads(self.engine.call("inspect", "--format={{json .State}}", ids[0]))
        return found

    def logs(self, service: str, *, lines: int = 40) -> str:
        """The end of the log of the service's container."""
        ids = self._containers(service)
        return self.engine.call("logs", f"--tail={lines}", ids[0]) if ids else ""

    def kill(self, service: str) -> None:
        """SIGKILL for process 1 of the container, which its restart policy answers, as it would a crash.

        `docker kill` would count as a stop by hand.
        """
        before = self.state(service)
        if self.engine.own:
            os.kill(before["Pid"], signal.SIGKILL)
        else:  # which may run in a machine of its own
            flags = ("--rm", "--pid=host", "--network=none", "--user=0", "--entrypoint=sh")
            self.engine.call("run", *flags, PHEMA, "-c", f"kill -9 {before['Pid']}")
        eventually(
            lambda: (now := self.state(service)).get("Running") and now["StartedAt"] != before["StartedAt"],
            f"{service} is started again",
        )

    def _containers(self, service: str) -> list[str]:
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
        filters = [f"--filter=label={name}={value}" for name, value in labels.items()]
        # `docker compose run` leaves the label of the service on its container, too.
        lasting = "--filter=label=com.docker.compose.oneoff=False"
        return self.engine.call("ps", "--all", "--quiet", lasting, *filters).split()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.variables[f'PORT_{name}']}"

    def client(self) -> Client:
        return Client(self.url("API"), self.variables["PHEMA_API_TOKEN"])
