"""Every process of a phema cluster on this machine, each restarted when it ends, as a supervisor in production does.

PostgreSQL, an S3 server, a Ray head, the API, two trainers and some phema workers. Everything that uses the catalog or
the store reaches it through a `Tunnel`, so that a fault can disturb the connection alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil

from deploy.local.object_store import HEALTH, object_store
from deploy.local.postgres import postgres
from phema.local_service.processes import port_is_free
from phema.local_service.ray_head import RayHead
from phema.local_service.service import Check, OnExit, Service, http_check
from phema.local_service.supervisor import Supervisor
from phema.shared.catalog import Catalog
from phema.shared.snapshots import ObjectStore, S3Options, open_store
from tests.chaos.small_disk import SmallDisk
from tests.servers.tunnel import Tunnel

S3_SERVER = Path(__file__).with_name("s3_server.py")
SECRET = {"POSTGRES_USER": "phema", "POSTGRES_PASSWORD": "a-storm-password", "POSTGRES_DB": "phema"}
S3_KEYS = {"MINIO_ROOT_USER": "test", "MINIO_ROOT_PASSWORD": "test"}
BUCKET = "storm"
STORE_URL = f"s3://{BUCKET}/store"
TRAINERS = ("trainer-1", "trainer-2")
DISKS = {"database": 640, "objects": 384, "temporary": 256}
"""File systems of the cluster and their sizes in MiB."""
RAY = {"RAY_raylet_start_wait_time_s": "240"}
"""Ray's own limit, 30 s, is too short for a machine that starts many processes at once."""
LEASE_SECONDS = 6.0
START_SECONDS = 900.0
"""Longest start of all services on a busy machine: Ray may need several tries."""
UP_SECONDS = 900.0
"""Time in which a killed service must be up again."""


Found = TypeVar("Found")


class StormFailed(AssertionError):
    """Something that must hold does not; the message says what."""


class Cluster:
    """The processes. Use as a context manager; `environment` is what every phema process of it needs."""

    def __init__(self, folder: Path, *, workers: int, cpus: int) -> None:
        self.folder = folder
        self.workers = tuple(f"worker-{number}" for number in range(1, workers + 1))
        self.disks = {name: SmallDisk(folder / "disks" / name, size) for name, size in DISKS.items()}
        ports = {name: _stable_port() for name in ("postgres", "s3", "api")}
        self.url = f"http://127.0.0.1:{ports['api']}"
        self._ports = ports
        self.to_catalog, self.to_store = Tunnel(ports["postgres"]), Tunnel(ports["s3"])
        self.environment = self._environment()
        temporary = str(self.disks["temporary"].path)
        self.ray = RayHead(num_cpus=cpus, environment={**self.environment, **RAY, "TMPDIR": temporary})
        self.environment |= self.ray.env
        self.supervisor = Supervisor(self._services(), folder / "logs", report=self._report)
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._supervise, name="supervisor")

    # Starting and ending

    def __enter__(self) -> Cluster:
        for disk in self.disks.values():
            disk.mount()
        self._thread.start()
        try:
            until(lambda: self.supervisor.ready, "the start of all services", START_SECONDS, every=self.check)
            self._keep_bucket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for tunnel in (self.to_catalog, self.to_store):
            tunnel.down()
        self._stopping.set()
        self._thread.join()
        self.ray.remove()
        for disk in self.disks.values():
            disk.unmount()

    def _supervise(self) -> None:
        try:
            if self.supervisor.start(self._stopping):
                self.supervisor.supervise(self._stopping)
        except BaseException as error:
            self._error = error
        finally:
            self.supervisor.stop()

    def _keep_bucket(self) -> None:
        """Put an object beside the store: after a kill, ministack knows a bucket by its objects only."""
        open_store(f"s3://{BUCKET}/beside", s3=self._s3_options).put("bucket", b"kept")

    def check(self) -> None:
        """Raises what ended the supervisor."""
        if self._error is not None:
            raise self._error

    def _report(self, line: str) -> None:
        with (self.folder / "logs" / "supervisor.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    # Processes

    def pid(self, name: str) -> int:
        """The process id of a service, once it runs."""
        return until(lambda: self.supervisor.members[name].pid, f"a process of {name}", UP_SECONDS, every=self.check)

    def restarts(self, name: str) -> int:
        return self.supervisor.members[name].restarts

    def wait_up(self, name: str, restarts: int) -> None:
        """Until the service has been started more than `restarts` times again and is healthy."""
        member = self.supervisor.members[name]
        until(
            lambda: member.restarts > restarts and member.ready, f"the return of {name}", UP_SECONDS, every=self.check
        )

    def processes(self, *pieces: str) -> list[psutil.Process]:
        """All processes of the services, and those that they started, whose command line holds all `pieces`."""
        found = []
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and all(x in " ".join(process.cmdline()) for x in pieces):
                    found.append(process)
        return found

    def _processes(self) -> Iterator[psutil.Process]:
        for member in self.supervisor.members.values():
            with contextlib.suppress(psutil.Error):
                # The parent of each service is its reaper, which also adopts what the service leaves behind.
                if (pid := member.pid) is not None and (reaper := psutil.Process(pid).parent()) is not None:
                    yield from reaper.children(recursive=True)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`phema …` as a person beside the cluster runs it, not through the tunnels."""
        environment = {**self.environment, "PHEMA_DATABASE_URL": self.catalog_url, "PHEMA_S3_ENDPOINT_URL": self.s3_url}
        done = subprocess.run(
            [sys.executable, "-m", "phema.command.main", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise StormFailed(f"phema {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done

    # Catalog and store, without the tunnels

    @property
    def catalog_url(self) -> str:
        return self.database_url("phema")

    def database_url(self, database: str) -> str:
        user, password = SECRET["POSTGRES_USER"], SECRET["POSTGRES_PASSWORD"]
        return f"postgresql://{user}:{password}@127.0.0.1:{self._ports['postgres']}/{database}"

    @property
    def s3_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    def catalog(self) -> Catalog:
        return Catalog(self.catalog_url)

    def store(self) -> ObjectStore:
        return open_store(STORE_URL, s3=self._s3_options)

    @property
    def _s3_options(self) -> S3Options:
        key, secret = S3_KEYS["MINIO_ROOT_USER"], S3_KEYS["MINIO_ROOT_PASSWORD"]
        return S3Options(self.s3_url, access_key_id=key, secret_access_key=secret)

    def object_file(self, key: str) -> Path:
        """Where the S3 server keeps the bytes of an object."""
        (found,) = self.disks["objects"].path.glob(f"*/{BUCKET}/store/{key}")
        return found

    # Services

    def _environment(self) -> dict[str, str]:
        user, password = SECRET["POSTGRES_USER"], SECRET["POSTGRES_PASSWORD"]
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PHEMA_STATE_DIR": str(self.folder / "state"),
            "PHEMA_DATABASE_URL": f"postgresql://{user}:{password}@127.0.0.1:{self.to_catalog.port}/phema",
            "PHEMA_STORE_URL": STORE_URL,
            "PHEMA_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.to_store.port}",
            "PHEMA_S3_PUBLIC_ENDPOINT_URL": self.s3_url,
            "PHEMA_S3_ACCESS_KEY_ID": S3_KEYS["MINIO_ROOT_USER"],
            "PHEMA_S3_SECRET_ACCESS_KEY": S3_KEYS["MINIO_ROOT_PASSWORD"],
            "PHEMA_API_PORT": str(self._ports["api"]),
            "PHEMA_URL": self.url,
            "PHEMA_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "PHEMA_HEARTBEAT_SECONDS": "1",
            "PHEMA_POLL_SECONDS": "0.2",
            "PHEMA_MAX_RUNNING_TRAININGS": "2",
            # A storm kills far more often than machines do, also attempts that have just begun.
            "PHEMA_MAX_ATTEMPTS": "100",
            "PHEMA_LOG_LEVEL": "info",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
        }

    def _services(self) -> list[Service]:
        database = postgres(
            self._service("postgres", (), check=Check(("pg_isready", "-q", "-h", "127.0.0.1"), 5, START_SECONDS)),
            SECRET,
            self.disks["database"].path,
            self._ports["postgres"],
        )
        health = http_check(f"{self.s3_url}{HEALTH}")
        objects = object_store(
            self._service("s3", (), check=Check(health, 5, START_SECONDS)),
            S3_KEYS,
            self.disks["objects"].path,
            self.folder / "scratch",
            self._ports["s3"],
        )
        objects = replace(objects, command=(sys.executable, str(S3_SERVER)))
        prepare = self._service(
            "prepare", ("phema.command.main", "prepare"), needs=("postgres", "s3"), on_exit=OnExit.COMPLETE
        )
        assert self.ray.service.check is not None
        patient = replace(self.ray.service.check, start=START_SECONDS)
        ray = replace(self.ray.service, on_exit=OnExit.RESTART, reap=True, check=patient)
        api = self._service(
            "api",
            ("phema.services.api",),
            needs=("prepare",),
            check=Check(http_check(f"{self.url}/readyz"), 10, START_SECONDS),
        )
        others = [
            self._service(name, (f"phema.services.{module}",), needs=("prepare", "ray"))
            for module, names in (("trainer", TRAINERS), ("phema_worker", self.workers))
            for name in names
        ]
        return [database, objects, prepare, ray, api, *others]

    def _service(
        self,
        name: str,
        module: Sequence[str],
        *,
        needs: tuple[str, ...] = (),
        check: Check | None = None,
        on_exit: OnExit = OnExit.RESTART,
    ) -> Service:
        own = self.folder / "services" / name
        return Service(
            name=name,
            command=(sys.executable, "-m", *module),
            environment={**self.environment, "TMPDIR": str(own), "PHEMA_STATE_DIR": str(own)},
            cwd=own,
            folders=(own, self.folder / "scratch"),
            needs=needs,
            check=check,
            on_exit=on_exit,
            grace=20.0,
            reap=True,
        )


def until(look: Callable[[], Found], what: str, seconds: float, *, every: Callable[[], object] = lambda: None) -> Found:
    """The first true value of `look`. Raises StormFailed after `seconds`, and what `every` raises between two looks."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        every()
        if time.monotonic() > deadline:
            raise StormFailed(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def storm_folder(kept: Path | None) -> Iterator[Path]:
    """A folder that PostgreSQL, which never runs as root, can enter. Its logs are copied to `kept` on an error."""
    folder = Path(tempfile.mkdtemp(prefix="phema-storm-"))
    folder.chmod(0o755)
    try:
        yield folder
    except BaseException:
        if kept is not None:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder / "logs", kept, ignore_dangling_symlinks=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stable_port() -> int:
    """A free port outside of the range from which the system takes the ports of clients.

    Otherwise a client may take the port of a server while that is down.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        if port_is_free(port):
            return port
