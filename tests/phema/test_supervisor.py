"""How services start and end together, on small processes; what `phema up` says when Ray does not start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from phema.local_service import supervisor as supervisor_module
from phema.local_service.ray_logs import KEPT, RayLogs
from phema.local_service.service import Check, OnExit, Service, ServiceFailed
from phema.local_service.supervisor import Supervisor


def shell(name: str, script: str, folder: Path, **fields: object) -> Service:
    return Service(name, ("sh", "-c", script), dict(os.environ), cwd=folder, **fields)  # type: ignore[arg-type]


def test_a_service_starts_before_what_it_uses_is_ready_and_ends_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "PROGRESS_SECONDS", 0.0)
    ending = "trap 'sleep {}; echo {} >> ended; exit' TERM; {}; while true; do sleep 0.05; done"
    said: list[str] = []
    both = Supervisor(
        [
            shell("slow", ending.format(0, "slow", "true"), tmp_path, check=Check(("test", "-e", "lazy"), 5, 60)),
            shell("lazy", ending.format(0.3, "lazy", "touch lazy"), tmp_path, uses=("slow",)),
        ],
        tmp_path / "logs",
        report=said.append,
    )
    try:
        both.begin("slow")
        assert both.start(threading.Event()), "slow is ready only because lazy has started"
    finally:
        both.stop()
    assert (tmp_path / "ended").read_text() == "lazy\nslow\n"
    assert "not ready after 0 s: slow; still waiting" in said


def test_a_service_that_exits_is_one_sentence_with_its_log(tmp_path: Path) -> None:
    failing = shell(
        "ray", "echo 80 lines; echo no room; exit 3", tmp_path, on_exit=OnExit.FAIL, check=Check(("false",), 5, 60)
    )
    alone = Supervisor([failing], tmp_path / "logs")
    with pytest.raises(ServiceFailed) as raised:
        alone.start(threading.Event())
    alone.stop()
    assert str(raised.value) == f"ray exited with code 3: no room; its log is {tmp_path / 'logs' / 'ray.log'}"


def test_up_without_ray_is_one_sentence_that_names_the_log(tmp_path: Path) -> None:
    # Ray ends with a traceback when it cannot read this variable.
    environment = {**os.environ, "RAY_OVERRIDE_RESOURCES": "{", "PHEMA_STATE_DIR": "state", "PHEMA_API_PORT": "0"}
    command = [sys.executable, "-m", "phema.command.main", "up"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    log = tmp_path / "state" / "logs" / "ray.log"
    assert "Traceback" in log.read_text()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("phema: ray exited with code 1: ")
    assert done.stderr.endswith(f"; its log is {log}\n")
    assert done.stdout.splitlines()[0] == "starting Ray, API, trainer and worker …"


def session(folder: Path, number: int) -> Path:
    logs = folder / f"phema-ray-{number}" / f"session_2026-11-29_{number:02}" / "logs"
    logs.mkdir(parents=True)
    (logs / f"job-driver-job-{number}-a1.log").write_text("trained")
    return folder / f"phema-ray-{number}"


def test_the_logs_of_ray_are_kept_also_after_a_crash(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    first = session(tmp_path, 0)
    RayLogs(tmp_path, tmp_path / "logs").begin(first)
    # That process was killed; the next one finds the link.
    logs = RayLogs(tmp_path, tmp_path / "logs")
    logs.begin(session(tmp_path, 1))
    assert not first.exists()
    assert (tmp_path / "logs/ray/session_2026-11-29_00/job-driver-job-0-a1.log").read_text() == "trained"
    for number in range(2, KEPT + 2):
        logs.begin(session(tmp_path, number))
    logs.end()
    logs.end()
    kept = sorted(path.name for path in (tmp_path / "logs" / "ray").iterdir())
    assert (len(kept), kept[0]) == (KEPT, "session_2026-11-29_02")
    assert not (tmp_path / "ray-session").is_symlink()
