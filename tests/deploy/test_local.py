"""The cluster without docker: it reads what a compose command reads, and refuses what it does not know."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import plan as planning
from deploy.local import table
from deploy.local.addresses import Addresses
from deploy.local.compose import ComposeError, read_services, read_variables, seconds
from deploy.local.plan import plan
from phema.local_service.supervisor import REAPER
from tests.deploy.documents import COMPOSE, ROOT

SECRETS = {
    name: f"secret{index}"
    for index, name in enumerate(sorted(set(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE.read_text()))))
}


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    return read_services(COMPOSE, SECRETS)


@pytest.fixture(autouse=True)
def _programs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: these tests start nothing."""
    monkeypatch.setattr(planning, "_replaced", lambda service, *_: replace(service, command=(service.name,)))


def planned(services: Mapping[str, Mapping[str, Any]], folder: Path) -> Mapping[str, Any]:
    return plan(services, Addresses.free(services), folder, folder / "scratch")


def test_the_file_is_read_as_by_a_compose_command(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PHEMA_", "RAY_"))}
    if shutil.which("docker-compose") is None:
        if os.environ.get("PHEMA_REQUIRE_COMPOSE"):
            pytest.fail("PHEMA_REQUIRE_COMPOSE is set, but there is no docker-compose")
        pytest.skip("no compose command: apt-get install docker-compose")
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    command = ["docker-compose", f"--env-file={tmp_path / 'env'}", f"--file={COMPOSE}", "config"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    theirs = yaml.safe_load(done.stdout.replace("$$", "$"))["services"]
    for name, service in services.items():
        assert service.get("command") == theirs[name].get("command")
        assert service.get("entrypoint") == theirs[name].get("entrypoint")
        assert service.get("environment", {}) == theirs[name].get("environment", {})
        assert service.get("depends_on", {}) == theirs[name].get("depends_on", {})


def test_our_services_run_composes_commands_and_variables(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    processes = planned(services, tmp_path)
    assert set(processes) == {*table.OURS, *table.REPLACED} == set(services) - set(table.LEFT_OUT)
    for name in table.OURS:
        given, made = services[name], processes[name]
        assert set(given.get("environment", {})) <= set(made.environment)
        before, after = " ".join(given["command"]).split(), " ".join(made.command).split()
        options = [word.partition("=")[0] for word in after]
        assert [word for word in before if word.partition("=")[0] not in options] == []
        changed = {old.partition("=")[0] for old in before if old not in after}
        addresses = {
            "--address",
            "--port",
            "--dashboard-port",
            "--dashboard-agent-listen-port",
            "--metrics-export-port",
        }
        assert changed <= addresses | set(table.RAY_FLAGS)
        if made.check is not None and "doctor" in made.check.command:
            assert list(made.check.command) == given["healthcheck"]["test"][1:]
    text = str([(process.command, process.environment, process.check) for process in processes.values()])
    assert re.findall(rf"(?<![\w.-])(?:{'|'.join(services)}):\d+", text) == []
    assert re.findall(r"0\.0\.0\.0|127\.0\.0\.1:(?:8400|9000|52365)\b", text) == []


UNKNOWN = [
    (("cache",), {"restart": "no"}, "the service cache"),
    (("api", "environment", "PHEMA_NEW"), "1", "api has the variable PHEMA_NEW"),
    (("api", "environment", "PHEMA_URL"), "http://ray-head:1234", "the address ray-head:1234"),
    (("api", "environment", "PHEMA_STORE_URL"), "s3://minio:9000", "PHEMA_STORE_URL of api holds an address"),
    (("trainer", "command"), ["python", "--port=1"], "the address trainer:1"),
    (("api", "healthcheck", "test"), ["CMD", "wget", "http://127.0.0.1:1/"], "api uses 127.0.0.1:1"),
    (("api", "healthcheck", "test"), ["CMD-SHELL", "true"], "CMD-SHELL"),
    (("api", "configs"), ["file"], "api has the field configs"),
]


@pytest.mark.parametrize(("path", "value", "said"), UNKNOWN, ids=[said for *_, said in UNKNOWN])
def test_what_the_table_does_not_know_is_refused(
    services: dict[str, dict[str, Any]], path: tuple[str, ...], value: Any, said: str, tmp_path: Path
) -> None:
    place: dict[str, Any] = services
    for key in path[:-1]:
        place[key] = dict(place[key])  # YAML's anchors share them
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ComposeError, match=re.escape(said)):
        planned(services, tmp_path)


def test_the_table_knows_nothing_that_is_not_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(table.LEFT_OUT) <= set(services)
    used = [service for name, service in services.items() if name not in table.LEFT_OUT]
    variables = {name for service in used for name in service.get("environment", {})}
    ours = {*table.CHANGED, *table.PORT_VARIABLES, *table.ADDRESS_VARIABLES, *table.KEPT}
    assert ours == variables
    assert {*table.FIELDS, *table.CONTAINER_FIELDS} == {field for service in services.values() for field in service}
    image = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").partition(" AS runtime")[2].partition("FROM")[0]
    (line,) = re.findall(r"^ENV (.*)$", image, re.MULTILINE)
    assert set(re.findall(r"([A-Z_]+)=", line)) == {
        *table.IMAGE,
        "PATH",
        "MPLCONFIGDIR",
        "NVIDIA_DRIVER_CAPABILITIES",
        "PHEMA_STATE_DIR",
    }


def test_a_variable_without_a_value_is_told(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"^\w+ has no value: run deploy/new_env\.sh once"):
        read_services(COMPOSE, {})
    file = tmp_path / "compose.yml"
    file.write_text("services: {a: {command: ['$$A ${A} ${B:-b c} ${A:-x}']}}")
    assert read_services(file, {"A": "1"})["a"]["command"] == ["$A 1 b c 1"]
    assert (seconds("1m30s"), seconds("500ms")) == (90.0, 0.5)
    file.write_text("services: {a: {command: ['${A-x}', '${A:-x}', '${B-x}', '${B-}', '${A?no}']}}")
    assert read_services(file, {"A": ""})["a"]["command"] == ["", "x", "x", "", ""]
    with pytest.raises(ComposeError, match="'10' is no duration"):
        seconds("10")


def test_secrets_are_those_of_new_env(tmp_path: Path) -> None:
    subprocess.run(["bash", str(ROOT / "deploy/new_env.sh"), str(tmp_path / "env")], check=True, capture_output=True)
    variables = read_variables(tmp_path / "env")
    assert set(SECRETS) <= set(variables)
    assert all(variables.values())


def contained(tmp_path: Path, grace: str, script: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A shell in a container process; it has begun when its pid is known."""
    pid_file = tmp_path / "pid"
    command = [sys.executable, "-S", str(REAPER), str(pid_file), "SIGINT", grace, "sh", "-c", script]
    return subprocess.Popen(command, cwd=tmp_path), pid_file


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
    return path.read_text()


def test_a_container_leaves_no_daemon_behind(tmp_path: Path) -> None:
    # The daemon has a session and a parent of its own, as those of `ray start` have.
    daemon = "setsid sh -c 'sh -c \"echo \\$\\$ > daemon; exec sleep 600\" & exit'"
    script = f"{daemon}; while [ ! -s daemon ]; do :; done; exit 3"
    process, _ = contained(tmp_path, "10", script)
    assert process.wait(30) == 3
    assert not Path(f"/proc/{wait_for(tmp_path / 'daemon').strip()}").exists()


@pytest.mark.parametrize(("script", "code"), [("trap 'exit 7' INT", 7), ("trap '' INT", 128 + signal.SIGKILL)])
def test_a_container_passes_its_signal_on_and_kills_after_the_grace(tmp_path: Path, script: str, code: int) -> None:
    process, _ = contained(
        tmp_path, "0.5" if code > 128 else "20", f"{script}; echo 1 > ready; while :; do sleep 0.05; done"
    )
    wait_for(tmp_path / "ready")
    process.terminate()
    assert process.wait(30) == code


def test_a_container_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from phema.local_service.processes import spawn; import sys, time\n"
        f"spawn([sys.executable, '-S', {str(REAPER)!r}, 'pid', 'SIGTERM', '5', 'sleep', '600'],"
        " log=Path('log'), env={}, cwd=Path.cwd())\n"
        "time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    own = Path(f"/proc/{wait_for(tmp_path / 'pid')}")
    assert own.exists()
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 30
    while own.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_there_must_be_a_cluster_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.local", str(tmp_path)]
    for arguments in (["--down"], ["--run", "doctor"]):
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"no cluster runs from {tmp_path}\n")


def test_what_a_killed_cluster_left_is_cleared_up(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "cluster.json").write_text(json.dumps({"pid": os.getpid(), "scratch": str(scratch)}))
    command = [sys.executable, "-m", "deploy.local", str(tmp_path), "--down"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert not scratch.exists()
