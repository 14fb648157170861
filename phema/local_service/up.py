"""`phema up`: every service on this machine in one terminal, and a clean end on Ctrl-C.

The services are those of a cluster, started as child processes with the same settings; only addresses differ.
A service that exits is started again. All state is in one folder: the next `phema up` continues where this one ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from phema.client.service_discovery import LOCK_FILE, SERVICE_FILE
from phema.local_service.processes import free_port, port_is_free, spawn, stop, tail
from phema.local_service.ray_head import START_SECONDS, TRIES, RayHead
from phema.local_service.ray_logs import RayLogs
from phema.local_service.service import CannotStart, Check, OnExit, Service, ServiceFailed, http_check
from phema.local_service.state_folder import StateFolder
from phema.local_service.supervisor import Member, Supervisor
from phema.shared.settings import Settings
from phema.shared.wiring import catalog_from, store_from

MODULES = {"api": "phema.services.api", "trainer": "phema.services.trainer", "worker": "phema.services.phema_worker"}
READY_SECONDS = 120.0
STOP_SECONDS = 20.0
Report = Callable[[str], None]


def main(settings: Settings, *, report: Report = print) -> int:
    """Run until SIGINT or SIGTERM; the exit code. Raises CannotStart, CatalogError and SnapshotError."""
    stopping = threading.Event()
    _on_signals(lambda *_: stopping.set())
    folder = settings.state_dir.resolve()
    port = settings.api_port or free_port(settings.api_host)
    settings = settings.model_copy(update={"state_dir": folder, "api_port": port, **_actors(settings)})
    with _state(folder).owned():
        _state(folder).remove_document()  # a killed `phema up` leaves its own behind
        if not port_is_free(port, settings.api_host):
            raise CannotStart(f"port {port} is taken; choose another with --port, or 0 for a free one")
        _run(settings, stopping, report)
    return 0


def services(settings: Settings, ray: RayHead) -> list[Service]:
    """Everything that `phema up` runs."""
    with_ray = {**_environment(settings), **ray.env}
    ready = Check(http_check(f"{_url(settings)}/readyz"), timeout=5, start=READY_SECONDS)
    return [
        ray.service,
        *(
            Service(
                name=name,
                command=(sys.executable, "-m", module),
                environment=with_ray,
                # All start while Ray does, which takes longest: the API needs no Ray, the others wait for it.
                uses=() if name == "api" else ("ray",),
                check=ready if name == "api" else None,
                on_exit=OnExit.RESTART_AFTER_START,
                grace=STOP_SECONDS,
            )
            for name, module in MODULES.items()
        ),
    ]


def _run(settings: Settings, stopping: threading.Event, report: Report) -> None:
    """Supervise until `stopping` is set. When Ray exits, all services start again with a new Ray cluster."""
    state, logs = _state(settings.state_dir), settings.state_dir / "logs"
    logs.mkdir(exist_ok=True)
    logs.chmod(0o700)
    ray_logs, prepared, tries = RayLogs(settings.state_dir, logs), False, 0
    while not stopping.is_set():
        tries += 1
        report("starting Ray, API, trainer and worker …")
        ray = RayHead(num_cpus=_ray_cpus(settings), environment=_environment(settings))
        ray_logs.begin(ray.session_dir)
        supervisor = Supervisor(services(settings, ray), logs, report=report, on_change=_announcer(report))
        try:
            supervisor.begin("ray")  # it takes longest, and needs neither catalog nor store
            if not prepared:
                with _interruptible(stopping):
                    _prepare_storage(settings)
                prepared = True
            if supervisor.start(stopping):
                tries = 0
                state.write({"url": _url(settings)})
                report(f"phema is ready at {_url(settings)}  (state in {settings.state_dir}; Ctrl-C ends it)")
                report(_invitation(settings))
                supervisor.supervise(stopping)
            report("stopping …")
        except ServiceFailed as failure:
            if failure.service != "ray" or tries == TRIES:
                raise
            report(f"{failure}; starting it and all services again")
        except KeyboardInterrupt:
            report("stopping …")
        finally:
            if stopping.is_set():
                state.remove_document()
            supervisor.stop()
            ray_logs.end()


def _announcer(report: Report) -> Callable[[Member], None]:
    """A function that reports when a service with a health check is ready for the first time."""
    began, said = time.monotonic(), set()

    def on_change(member: Member) -> None:
        name = member.service.name
        if member.ready and member.service.check is not None and name not in said:
            said.add(name)
            report(f"{name} is ready after {time.monotonic() - began:.0f} s")

    return on_change


def _actors(settings: Settings) -> dict[str, int]:
    """The settings of actors that the user has not chosen: while nothing trains, every CPU may evaluate; then one."""
    if "worker_actors" in settings.model_fields_set or settings.actor_gpus:
        return {}
    actors = max(1, int((os.cpu_count() or 1) / settings.actor_cpus))
    return {"worker_actors": actors, "actors_while_training": settings.actors_while_training or 1}


def _ray_cpus(settings: Settings) -> int:
    """Training may take every core; actors are scheduled beside it, so that none waits for the other."""
    actors = int(-(-settings.worker_actors * settings.actor_cpus // 1))
    return (os.cpu_count() or 1) + actors


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "PHEMA_STATE_DIR": str(settings.state_dir),
        "PHEMA_API_HOST": settings.api_host,
        "PHEMA_API_PORT": str(settings.api_port),
        "PHEMA_WORKER_ACTORS": str(settings.worker_actors),
        "PHEMA_ACTORS_WHILE_TRAINING": str(settings.actors_while_training or ""),
        # S3 servers older than boto3's default trailing checksums refuse them.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
    }


def _url(settings: Settings) -> str:
    return f"http://{settings.api_host}:{settings.api_port}"


def _invitation(settings: Settings) -> str:
    """Where the web pages are."""
    sign_in = "; sign in with the token PHEMA_API_TOKEN" if settings.api_token else ""
    return f"open {_url(settings)} in a browser{sign_in}"


def _state(folder: Path) -> StateFolder:
    return StateFolder(folder, document=SERVICE_FILE, lock=LOCK_FILE, owner="phema", end_command="`phema down`")


def _prepare_storage(settings: Settings) -> None:
    with closing(catalog_from(settings)) as catalog:
        catalog.upgrade()
    store_from(settings).check()


@contextmanager
def _interruptible(stopping: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the block, which a database may keep waiting."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    _on_signals(interrupt)
    try:
        yield
    finally:
        _on_signals(lambda *_: stopping.set())


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def down(state_dir: Path) -> bool:
    """End the `phema up` of this state folder and wait until it has ended. False when none was running."""
    return _state(state_dir).end_owner()


@contextmanager
def running_service(
    state_dir: Path, *, env: dict[str, str] | None = None, report: Report = lambda line: None
) -> Iterator[str]:
    """A `phema up` for the length of the block: yields the API's URL. `report` gets the lines about its start.

    Raises CannotStart.
    """
    folder = state_dir.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / "logs" / "up.log"
    said = len(log.read_text(errors="replace").splitlines()) if log.exists() else 0
    overrides = {"PHEMA_STATE_DIR": str(folder), "PHEMA_API_PORT": "0", **(env or {})}
    process = spawn([sys.executable, "-m", "phema.command.main", "up"], log=log, env=overrides)
    try:
        deadline = time.monotonic() + TRIES * START_SECONDS + READY_SECONDS
        while (document := _state(folder).read()) is None or document["pid"] != process.pid:
            for line in log.read_text(errors="replace").splitlines()[said:]:
                report(line)
                said += 1
            if process.poll() is not None:
                raise CannotStart(
                    tail(log, 1).removeprefix("phema: ") or f"phema up exited with code {process.returncode}"
                )
            if time.monotonic() > deadline:
                raise CannotStart(f"phema up was not ready in time; its log is {log}")
            time.sleep(0.1)
        yield str(document["url"])
    finally:
        stop(process, grace_s=2 * STOP_SECONDS)
