"""A Ray head of our own on loopback, with token authentication and ports that nobody else uses."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from phema.local_service.processes import free_port, spawn, stop, tail

START_SECONDS = 120.0


class RayDidNotStart(RuntimeError):
    """The head was not ready in time, or exited; the message ends with its log."""


@dataclass
class RayHead:
    """A running `ray start --head`; `env` is what every process that uses the cluster needs."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    session_dir: Path
    log: Path
    _stopped: bool = field(default=False, repr=False)

    @property
    def address(self) -> str:
        return self.env["PHEMA_RAY_ADDRESS"]

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            stop(self.process, grace_s=15)
            shutil.rmtree(self.session_dir, ignore_errors=True)


def start_ray_head(*, num_cpus: int, log: Path, env: dict[str, str] | None = None) -> RayHead:
    """Start a single-node cluster and wait until it can take jobs.

    Raises RayDidNotStart. Ray gives a node 30 s to register, too little on a machine that is very busy, and somebody
    may take a port between our look and its use: so there is a second try.
    """
    try:
        return _start(num_cpus, log, env or {})
    except RayDidNotStart:
        return _start(num_cpus, log, env or {})


def _start(num_cpus: int, log: Path, env: dict[str, str]) -> RayHead:
    gcs, dashboard = free_port(), free_port()
    # Ray's socket paths must stay under 108 bytes, so the session lives in a short folder of its own.
    session_dir = Path(tempfile.mkdtemp(prefix="phema-ray-", dir="/tmp" if os.path.isdir("/tmp") else None))
    shared = {
        # Without it Ray binds every interface even on one machine.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray Train's reports and failure detection are paced by this poll (2 s by default).
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "PHEMA_RAY_ADDRESS": f"127.0.0.1:{gcs}",
        "PHEMA_RAY_DASHBOARD_URL": f"http://127.0.0.1:{dashboard}",
    }
    ports = (
        *("object-manager", "node-manager", "ray-client-server"),
        *("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent"),
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--num-cpus={num_cpus}", f"--temp-dir={session_dir}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"),
        *(f"--{name}-port={free_port()}" for name in ports),
        f"--metrics-export-port={free_port()}",
        # Workers bind whatever is free, instead of a range that another cluster of this machine may use as well.
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]
    process = spawn(command, log=log, env={**env, **shared})
    head = RayHead(process, shared, session_dir, log)
    try:
        _wait_until_ready(head)
    except BaseException:
        head.stop()
        raise
    return head


def _wait_until_ready(head: RayHead) -> None:
    """The Jobs endpoint answers well before the node can run anything, so both are asked."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(
        base_url=head.env["PHEMA_RAY_DASHBOARD_URL"],
        headers={"Authorization": f"Bearer {head.env['RAY_AUTH_TOKEN']}"},
        timeout=2,
        trust_env=False,
    ) as dashboard:
        while time.monotonic() < deadline:
            if head.process.poll() is not None:
                raise RayDidNotStart(f"Ray exited with code {head.process.returncode}:\n{tail(head.log)}")
            try:
                if dashboard.get("/api/jobs/").status_code == 200 and _node_is_alive(dashboard):
                    return
            except httpx.TransportError:
                pass  # not listening yet; the deadline bounds the wait
            time.sleep(0.2)
    raise RayDidNotStart(f"Ray was not ready after {START_SECONDS:g} s:\n{tail(head.log)}")


def _node_is_alive(dashboard: httpx.Client) -> bool:
    answer = dashboard.get("/nodes", params={"view": "summary"})
    if answer.status_code != 200:
        return False
    nodes = answer.json()["data"]["summary"]
    return any(node["raylet"].get("state") == "ALIVE" for node in nodes)
