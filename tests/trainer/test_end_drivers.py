"""The hook for the end of a container of Ray ends the drivers below one process, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from phema.services.trainer.control import driver, end_drivers
from tests.trainer.support import wait_until

PARENT = """
import signal, subprocess, sys
children = [subprocess.Popen([sys.executable, "-m", name]) for name in sys.argv[1:]]
signal.signal(signal.SIGTERM, lambda *_: [child.kill() for child in children])
for child in children:
    print(child.pid, child.wait(), flush=True)
"""
STAND_IN = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7) if {polite} else None)
Path("ready").touch()
while True:
    time.sleep(60)
"""
"""In the place of a driver: it says when it listens, and ends with 7 when it is asked to."""


@contextmanager
def node(folder: Path, *modules: str) -> Iterator[subprocess.Popen[str]]:
    """A process that starts these modules, as Ray does, and prints how they end."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", PARENT, *modules]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        try:
            yield parent
        finally:
            parent.terminate()


def stand_in(folder: Path, module: str, *, polite: bool = True) -> str:
    """Write the module into a folder of packages, and return its name."""
    path = folder.joinpath(*module.split("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".py").write_text(STAND_IN.format(polite=polite))
    return module


def ready(folder: Path) -> None:
    wait_until((folder / "ready").exists, "the start of the stand-in", seconds=60)


def test_drivers_below_the_process_end_and_others_go_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        parents = []
        for name in ("ours", "theirs"):
            folder = tmp_path / name
            parents.append(stack.enter_context(node(folder_of(folder), end_drivers.DRIVER)))
            ready(folder)
        ours, theirs = parents
        assert end_drivers.main(["--of", str(ours.pid), "--seconds", "60"]) == 0
        assert ours.communicate()[0].split()[1] == "7"
        assert len(end_drivers.drivers(theirs.pid)) == 1


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    stand_in(tmp_path, "other")
    with node(tmp_path, "other") as parent:
        ready(tmp_path)
        assert end_drivers.main(["--of", str(parent.pid)]) == 0
        assert parent.poll() is None


def test_a_driver_that_does_not_end_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "node", polite=False)
    with node(folder, end_drivers.DRIVER) as parent:
        ready(folder)
        assert end_drivers.main(["--of", str(parent.pid), "--seconds", "0.2"]) == 1
    assert capsys.readouterr().err == "1 trainings have not stopped within 0.2 s\n"


def test_the_name_is_that_of_the_driver() -> None:
    assert driver.__name__ == end_drivers.DRIVER


def folder_of(folder: Path, *, polite: bool = True) -> Path:
    folder.mkdir()
    stand_in(folder, end_drivers.DRIVER, polite=polite)
    return folder
