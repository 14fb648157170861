"""One service for the whole folder: Ray takes ten seconds to start."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from phema.local_service.up import running_service


@dataclass(frozen=True)
class Service:
    """A `phema up` of its own; `process` finds one of its processes by a piece of its command line."""

    url: str
    state: Path

    def process(self, *pieces: str) -> psutil.Process | None:
        supervisor = psutil.Process(self._pid)
        for child in supervisor.children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue  # it ended while we looked
            if all(piece in command for piece in pieces):
                return child
        return None

    @property
    def _pid(self) -> int:
        return int(json.loads((self.state / "service.json").read_text())["pid"])


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="phema-e2e-") as folder:
        state = Path(folder) / "state"
        env = {"PHEMA_LEASE_SECONDS": "6", "PHEMA_HEARTBEAT_SECONDS": "1", "PHEMA_POLL_SECONDS": "0.2"}
        with running_service(state, env={**env, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}) as url:
            yield Service(url, state)
