"""S3 servers on 127.0.0.1 for tests and benchmarks: ministack (an emulator) and Ceph RGW (the real thing)."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from deploy.local import object_store as server
from phema.local_service.processes import free_port
from phema.shared.snapshots import S3Options

CEPH_SCRIPT = Path(__file__).with_name("ceph_rgw.sh")
CEPH_PACKAGES = Path(os.environ.get("PHEMA_CEPH_PACKAGES", Path.home() / ".cache" / "phema" / "ceph-rgw"))
START_SECONDS = 60
CEPH_START_SECONDS = 280


@dataclass(frozen=True)
class S3Server:
    """A running server. `checks_secrets`: whether it refuses a wrong secret (emulators may not)."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    checks_secrets: bool
    log: Path

    @property
    def options(self) -> S3Options:
        return S3Options(
            endpoint_url=self.endpoint_url, access_key_id=self.access_key_id, secret_access_key=self.secret_access_key
        )

    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


@contextmanager
def ministack(folder: Path) -> Iterator[S3Server]:
    port = free_port()
    command, variables = server.ministack(port, folder)
    environment = {**os.environ, **variables}
    with running(command, environment, folder / "ministack.log") as (process, log):
        wait_until_up(f"http://127.0.0.1:{port}{server.HEALTH}", process, log, START_SECONDS)
        yield S3Server(f"http://127.0.0.1:{port}", "test", "test", checks_secrets=False, log=log)


@contextmanager
def ceph_rgw(folder: Path) -> Iterator[S3Server]:
    port = free_port()
    command = ["bash", str(CEPH_SCRIPT), str(folder / "ceph"), str(port), str(CEPH_PACKAGES)]
    with running(command, dict(os.environ), folder / "ceph.log") as (process, log):
        wait_until_up(f"http://127.0.0.1:{port}/", process, log, CEPH_START_SECONDS)
        yield S3Server(f"http://127.0.0.1:{port}", "testkey", "testsecret", checks_secrets=True, log=log)


@contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Poll until the server answers anything; its log is the message when it ends or stays silent."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not come up (exit code {process.poll()}):\n{log.read_text()[-4000:]}")


SERVERS: dict[str, Callable[[Path], AbstractContextManager[S3Server]]] = {"ministack": ministack, "rgw": ceph_rgw}
"""By the value of PHEMA_TEST_S3; each takes an empty folder for its data and log."""
