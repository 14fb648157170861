"""`phema up`: every service on this machine in one terminal, and a clean end on Ctrl-C.

The services are the ones a cluster runs, started as child processes with the same settings; only addresses differ.
A service that dies is started again; state lives in one folder, so the next `phema up` carries on where this one ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from phema.local_service.processes import free_port, port_is_free, spawn, stop, tail
from phema.local_service.ray_head import RayHead, start_ray_head
from phema.shared.settings import Settings
from phema.shared.wiring import catalog_from, store_from

SERVICES = {"api": "phema.services.api", "trainer": "phema.services.trainer", "worker": "phema.services.phema_worker"}
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
RESTART_SECONDS = 1.0
Report = Callable[[str], None]


class CannotStart(RuntimeError):
    """`phema up` cannot run; the message is one sentence for the user."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    started: float


class Supervisor:
    """Owns the state folder's lock, the Ray head and one process per service."""

    def __init__(self, settings: Settings, *, report: Report = print) -> None:
        self._state = settings.state_dir.resolve()
        self._report = report
        port = settings.api_port or free_port(settings.api_host)
        self._settings = settings.model_copy(update={"state_dir": self._state, "api_port": port})
        self._children: dict[str, _Child] = {}
        self._ray: RayHead | None = None
        self._lock: IO[str] | None = None
        self.url = f"http://{self._settings.api_host}:{port}"

    def start(self) -> None:
        """Bring everything up and return when the API is ready. Raises CannotStart."""
        self._take_state_folder()
        if not port_is_free(self._settings.api_port, self._settings.api_host):
            raise CannotStart(
                f"port {self._settings.api_port} is taken; choose another with --port, or 0 for a free one"
            )
        self._prepare_storage()
        self._report("starting Ray …")
        self._start_ray()
        for name in SERVICES:
            self._start_child(name)
        self._report("starting services …")
        self._wait_until_ready()
        self._service_file.write_text(json.dumps({"url": self.url, "pid": os.getpid()}))

    def supervise(self, stopping: threading.Event) -> None:
        """Start again what dies, until `stopping` is set."""
        while not stopping.wait(0.5):
            if self._ray is not None and self._ray.process.poll() is not None:
                self._report("Ray stopped; starting it and its services again")
                self._stop_children()
                self._start_ray()
            for name in SERVICES:
                child = self._children.get(name)
                if child is None:
                    self._start_child(name)
                elif child.process.poll() is not None and time.monotonic() - child.started > RESTART_SECONDS:
                    self._report(f"{name} exited with code {child.process.returncode}; starting it again")
                    self._start_child(name)

    def stop(self) -> None:
        """End the services first, so that they hand back their jobs, then Ray."""
        with contextlib.suppress(FileNotFoundError):
            if self._lock is not None:
                self._service_file.unlink()
        self._stop_children()
        if self._ray is not None:
            self._ray.stop()
        if self._lock is not None:
            self._lock.close()

    @property
    def _service_file(self) -> Path:
        return self._state / "service.json"

    def _log(self, name: str) -> Path:
        return self._state / "logs" / f"{name}.log"

    def _take_state_folder(self) -> None:
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            lock = (self._state / "up.lock").open("a")
        except OSError as error:
            raise CannotStart(f"state folder {self._state} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise CannotStart(
                f"phema is already running on state folder {self._state}; stop it with `phema down`"
            ) from None
        self._lock = lock
        self._service_file.unlink(missing_ok=True)

    def _prepare_storage(self) -> None:
        catalog = catalog_from(self._settings)
        try:
            catalog.upgrade()
        finally:
            catalog.close()
        store_from(self._settings).check()

    def _start_ray(self) -> None:
        cpus = os.cpu_count() or 1
        # Training may take every core; evaluation actors are scheduled beside it rather than after it.
        actors = int(-(-self._settings.worker_actors * self._settings.actor_cpus // 1))
        self._ray = start_ray_head(num_cpus=cpus + actors, log=self._log("ray"), env=self._environment())

    def _environment(self) -> dict[str, str]:
        env = {
            "PHEMA_STATE_DIR": str(self._state),
            "PHEMA_API_HOST": self._settings.api_host,
            "PHEMA_API_PORT": str(self._settings.api_port),
            # S3 servers older than boto3's default trailing checksums refuse them.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
        }
        return {**env, **(self._ray.env if self._ray else {})}

    def _start_child(self, name: str) -> None:
        process = spawn([sys.executable, "-m", SERVICES[name]], log=self._log(name), env=self._environment())
        self._children[name] = _Child(process, time.monotonic())

    def _stop_children(self) -> None:
        running = [child.process for child in self._children.values() if child.process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            stop(process, grace_s=STOP_SECONDS)
        self._children.clear()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for name, child in self._children.items():
                if child.process.poll() is not None:
                    raise CannotStart(f"{name} did not start: {tail(self._log(name), 1)}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise CannotStart(f"the API was not ready after {READY_SECONDS:g} s; its log is {self._log('api')}")


def main(settings: Settings, *, report: Report = print) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code; raises nothing the user should see as a traceback."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stopping))
    supervisor = Supervisor(settings, report=report)
    try:
        supervisor.start()
        report(f"phema is ready at {supervisor.url}  (state in {settings.state_dir}; Ctrl-C ends it)")
        supervisor.supervise(stopping)
        report("stopping …")
    except KeyboardInterrupt:
        report("stopping …")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop()
    return 0


def _interrupt(stopping: threading.Event) -> None:
    """Before the loop runs there is only the main thread's work to interrupt."""
    if stopping.is_set():
        return
    stopping.set()
    raise KeyboardInterrupt


def running(state_dir: Path) -> dict[str, object] | None:
    """What the `phema up` of this state folder wrote about itself: {"url", "pid"}; None when none runs."""
    try:
        service: dict[str, object] = json.loads((state_dir / "service.json").read_text())
        os.kill(int(str(service["pid"])), 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return service


def down(state_dir: Path) -> bool:
    """End the `phema up` of this state folder and wait until it has let go. False when none was running."""
    service = running(state_dir)
    if service is None:
        return False
    os.kill(int(str(service["pid"])), signal.SIGTERM)
    with (state_dir / "up.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return True


@contextlib.contextmanager
def running_service(state_dir: Path, *, quiet: bool = True, env: dict[str, str] | None = None) -> Iterator[str]:
    """A service of its own for the length of the block: yields the API's URL. Raises CannotStart."""
    state = state_dir.resolve()
    log = state / "logs" / "up.log"
    overrides = {"PHEMA_STATE_DIR": str(state), "PHEMA_API_PORT": "0", **(env or {})}
    process = spawn([sys.executable, "-m", "phema.command.main", "up"], log=log, env=overrides)
    try:
        yield _url_of(process, state, log)
    finally:
        stop(process, grace_s=2 * STOP_SECONDS)


def _url_of(process: subprocess.Popen[bytes], state: Path, log: Path) -> str:
    deadline = time.monotonic() + 2 * READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotStart(tail(log, 1) or f"phema up exited with code {process.returncode}")
        service = running(state)
        if service is not None and service["pid"] == process.pid:
            return str(service["url"])
        time.sleep(0.1)
    raise CannotStart(f"phema up was not ready in time; its log is {log}")
