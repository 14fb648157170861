"""A single-node Ray cluster on 127.0.0.1, with token authentication and ports that are free."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from phema.local_service.processes import free_port
from phema.local_service.service import Check, OnExit, Service

START_SECONDS = 240.0
TRIES = 2
"""How often to start a head before giving up, each time a new `RayHead`: another process may take a port between our
choice and Ray's use of it."""
COMMAND = Path(__file__).with_name("ray_command.py")
HEALTH = Path(__file__).with_name("ray_health.py")


class RayHead:
    """Ports, token and session folder of one cluster.

    `service` starts it; its environment is `environment` and `env`. `env` is what every process that uses the cluster
    needs. Call `remove` after the service has ended.
    """

    def __init__(self, *, num_cpus: int, environment: Mapping[str, str]) -> None:
        gcs, dashboard = free_port(), free_port()
        # Ray's socket paths must stay under 108 bytes, so the session folder gets a short name of its own.
        self.session_dir = Path(tempfile.mkdtemp(prefix="phema-ray-", dir="/tmp" if os.path.isdir("/tmp") else None))
        self.env = {
            # Without it Ray listens on every interface even on one machine.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray Train polls for reports and failures at this interval (default 2 s).
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
            # Lines of actors reach the log of their worker as they are: JSON without a prefix, also when repeated.
            "RAY_DISABLE_WORKER_LOG_PREFIX": "1",
            "RAY_DEDUP_LOGS": "0",
            # By default, the first driver to connect makes Ray start an idle Python process for each CPU.
            "RAY_prestart_worker_first_driver": "0",
            "PHEMA_RAY_ADDRESS": f"127.0.0.1:{gcs}",
            "PHEMA_RAY_DASHBOARD_URL": f"http://127.0.0.1:{dashboard}",
        }
        ports = (
            *("object-manager", "node-manager"),
            *("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent"),
        )
        command = (
            *(sys.executable, str(COMMAND), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--num-cpus={num_cpus}"),
            *(f"--temp-dir={self.session_dir}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            "--no-monitor",  # it would only scale a cluster of several machines
            *("--include-dashboard=true", *(f"--{name}-port={free_port()}" for name in ports)),
            f"--metrics-export-port={free_port()}",
            # Workers take any free port, instead of one from a range that another cluster of this machine may use.
            *("--min-worker-port=0", "--max-worker-port=0"),
        )
        self.service = Service(
            name="ray",
            command=command,
            environment={**environment, **self.env},
            check=Check((sys.executable, "-S", str(HEALTH)), timeout=5, start=START_SECONDS),
            on_exit=OnExit.FAIL,
            grace=15,
        )

    @property
    def address(self) -> str:
        return self.env["PHEMA_RAY_ADDRESS"]

    def remove(self) -> None:
        """Delete the session folder."""
        shutil.rmtree(self.session_dir, ignore_errors=True)
