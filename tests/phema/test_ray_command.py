"""`ray start` ends when the process of its node has ended, and does not wait until its time is over."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from phema.local_service.ray_head import RayHead
from tests.trainer.support import wait_until


@pytest.mark.timeout(180)  # less than `ray start` would wait
def test_a_raylet_that_dies_before_its_node_has_registered_ends_the_command(tmp_path: Path) -> None:
    head = RayHead(num_cpus=1, environment=dict(os.environ))
    output = tmp_path / "output"
    with output.open("wb") as log:
        command = subprocess.Popen(head.service.command, env=head.service.environment, stdout=log, stderr=log)
    try:

        def raylet() -> psutil.Process | None:
            below = psutil.Process(command.pid).children(recursive=True)
            return next((one for one in below if Path(one.cmdline()[0]).name == "raylet"), None)

        wait_until(raylet, "the start of the raylet").send_signal(signal.SIGKILL)
        assert command.wait() == 1
    finally:
        for process in psutil.Process(command.pid).children(recursive=True) if command.poll() is None else []:
            process.kill()
        command.kill()
        head.remove()
    assert "the raylet ended with -9 before its node had registered" in output.read_text()
