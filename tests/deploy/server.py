"""Debian's Prometheus with the committed configuration, for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.prometheus.write_config import write_config
from phema.local_service.processes import free_port


def require_prometheus() -> None:
    """Skips where there is none, unless PHEMA_REQUIRE_PROMETHEUS is set."""
    if shutil.which("prometheus") is None:
        if os.environ.get("PHEMA_REQUIRE_PROMETHEUS"):
            pytest.fail("PHEMA_REQUIRE_PROMETHEUS is set, but there is no prometheus")
        pytest.skip("no prometheus; install Debian's `prometheus`")


@contextmanager
def prometheus(folder: Path, api: str) -> Iterator[str]:
    """Its URL; it looks for targets at `api` (host:port) and scrapes every second."""
    port = free_port("127.0.0.1")
    config = write_config(folder, api=api, interval="1s")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
