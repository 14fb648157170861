"""A trainer process on the session's Ray cluster, and access to the processes that it starts there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from phema.local_service.ray_head import RayHead
from phema.shared.catalog import Catalog, Run, submission_id
from phema.shared.recipes.run_config import RunConfig
from tests.trainer.support import DEADLINE_SECONDS, get_run, wait_until

DRIVER = "phema.services.trainer.control.driver"


@dataclass
class Trainer:
    """`python -m phema.services.trainer` with a state folder of its own."""

    head: RayHead
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            **self.head.env,
            "PHEMA_STATE_DIR": str(self.folder),
            "PHEMA_POLL_SECONDS": "0.1",
            "PHEMA_HEARTBEAT_SECONDS": "0.25",
            **self.env,
        }
        with (self.folder / "trainer.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "phema.services.trainer"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)

    @property
    def log(self) -> str:
        return (self.folder / "trainer.log").read_text()

    def submissions(self) -> list[str]:
        """Every attempt that this trainer has submitted to Ray."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [submission_id(x["job_id"], x["attempt"]) for x in lines if x["message"] == "submitted"]

    def driver(self, job_id: str, fence: int) -> psutil.Process:
        """The driver process of an attempt."""
        wanted = [DRIVER, "--job", job_id, "--fence", str(fence)]
        return next(process for process, command in self._processes() if command[2 : 2 + len(wanted)] == wanted)

    def workers(self) -> list[psutil.Process]:
        """The processes of this cluster that train: Ray Train workers, and the drivers of runs of one worker."""

        def trains(command: list[str]) -> bool:
            return "RayTrainWorker" in " ".join(command) or (DRIVER in command and "--device" in command)

        return [process for process, command in self._processes() if trains(command)]

    def _processes(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                yield process, process.cmdline()


def submit(catalog: Catalog, config: RunConfig, name: str = "run", request_id: str | None = None) -> Run:
    with catalog.transaction(request_id=request_id) as tx:
        return tx.runs.create(name, config.model_dump(mode="json"), config.config_hash, config.total_images)


def finished(catalog: Catalog, run: str, seconds: float = DEADLINE_SECONDS) -> Run:
    """The run, once its job is in a terminal state."""
    wait_until(lambda: get_run(catalog, run).state.terminal, f"the end of run {run}", seconds)
    return get_run(catalog, run)


def kill(process: psutil.Process) -> None:
    """SIGKILL, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
