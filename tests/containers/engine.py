"""A Docker engine: the one that runs on this machine, or one of the test's own in a folder.

An engine of the test's own needs root and the programs `dockerd` and `debootstrap` (Debian: `docker.io`,
`debootstrap`). Its images stay in its folder, so that the next start finds them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("PHEMA_CONTAINERS_HOME", Path.home() / ".cache/phema-containers"))
"""Folder of the engine of the test's own."""
START_SECONDS = 60.0
STOP_SECONDS = 60.0
CGROUP = Path("/sys/fs/cgroup/cpu/docker")
SHARES = "8192"
"""All containers together have the CPU weight of one process, 1024. Beside busy processes, Ray would starve."""


class NoEngine(Exception):
    """No engine runs and none can be started; the message says what is missing."""


@dataclass(frozen=True)
class Engine:
    """`own`: it was started by `running_engine`, and no image on it is anybody else's."""

    docker: str
    environment: Mapping[str, str]
    own: bool

    @property
    def compose(self) -> list[str]:
        """Raises NoEngine without a compose command."""
        if self.succeeds("compose", "version"):
            return [self.docker, "compose"]
        if old := shutil.which("docker-compose"):
            return [old]
        raise NoEngine("there is no compose command: apt-get install docker-compose")

    def succeeds(self, *arguments: str) -> bool:
        done = subprocess.run(
            [self.docker, *arguments], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return done.returncode == 0

    def call(self, *arguments: str, command: Sequence[str] = (), check: bool = True) -> str:
        """The output of a command of docker, or of another `command` with the engine's environment.

        Raises AssertionError with the end of the output if `check` is set and the command fails.
        """
        words = [*(command or [self.docker]), *arguments]
        done = subprocess.run(
            words, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}:\n{done.stdout[-4000:]}"
        return done.stdout


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Raises NoEngine if no engine runs and none can be started."""
    docker = shutil.which("docker")
    found = Engine(docker or "docker", {**os.environ, "DOCKER_BUILDKIT": "1"}, own=False)
    if docker is not None and found.succeeds("info"):
        yield found
        return
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine runs, and only root can start one")
    path = f"/usr/bin:/usr/sbin:/sbin:{os.environ.get('PATH', os.defpath)}"
    missing = [name for name in ("dockerd", "debootstrap") if shutil.which(name, path=path) is None]
    if missing:
        raise NoEngine(f"no Docker engine runs, and {missing[0]} is missing: apt-get install docker.io debootstrap")
    # /usr/bin first: the client must be of the engine's version, and another one may come first in PATH.
    environment = {**os.environ, "PATH": path, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": f"unix://{HOME}/docker.sock"}
    engine = Engine(shutil.which("docker", path=path) or "docker", environment, own=True)
    if engine.succeeds("info"):
        raise NoEngine(f"an engine runs from {HOME} already: another `make test-containers`?")
    process = _start(environment)
    try:
        _wait_until_ready(engine, process)
        _raise_weight()
        yield engine
    finally:
        _stop(process)


def _raise_weight() -> None:
    """Give the containers more CPU time than single processes, where the machine has version 1 of cgroups."""
    with suppress(OSError):
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "cpu.shares").write_text(SHARES)


def _start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "docker.pid").unlink(missing_ok=True)
    flags = (
        *(f"--data-root={HOME}/data", f"--exec-root={HOME}/exec"),
        *(f"--host=unix://{HOME}/docker.sock", f"--pidfile={HOME}/docker.pid"),
    )
    with (HOME / "dockerd.log").open("w") as log:
        return subprocess.Popen(
            ["dockerd", *flags], env=environment, stdout=log, stderr=log, cwd="/", start_new_session=True
        )


def _wait_until_ready(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not engine.succeeds("info"):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = (HOME / "dockerd.log").read_text().strip().splitlines()[-1:]
            raise NoEngine(f"dockerd does not start here: {' '.join(lines)[-300:]}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine, and with it its containers."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # The engine leaves its bridge behind.
    subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
