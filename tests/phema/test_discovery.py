"""Which service a client talks to when the caller names none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.client.service_discovery import LOCK_FILE, find_url
from phema.errors import ServiceUnreachable
from phema.local_service.state_folder import StateFolder
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]
URL = "http://127.0.0.1:1234"


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """This process owns the folder, as `phema up` does once its services are ready."""
    state = StateFolder(folder, document="service.json", lock=LOCK_FILE, owner="phema", end_command="`phema down`")
    with state.owned():
        state.write({"url": URL})
        yield


def left_by_a_killed_service(folder: Path, pid: int) -> None:
    folder.mkdir()
    (folder / LOCK_FILE).touch()
    (folder / "service.json").write_text(json.dumps({"url": URL, "pid": pid}))


def test_the_environment_goes_before_the_state_folder(tmp_path: Path) -> None:
    with running(tmp_path / ".phema"):
        assert find_url({"PHEMA_URL": "http://elsewhere"}) == "http://elsewhere"
        assert find_url({}) == URL
        assert Client().url == URL


def test_the_state_folder_can_be_elsewhere(tmp_path: Path) -> None:
    with running(tmp_path / "state"):
        assert find_url({"PHEMA_STATE_DIR": str(tmp_path / "state")}) == URL
        with pytest.raises(ServiceUnreachable, match=r"no service runs from state folder \.phema; start one with"):
            find_url({})


def test_a_killed_service_is_not_there_even_if_its_process_id_is_in_use(tmp_path: Path) -> None:
    left_by_a_killed_service(tmp_path / ".phema", os.getpid())
    with pytest.raises(ServiceUnreachable, match="no service runs"):
        find_url({})


def test_a_service_that_starts_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path / ".phema"):
        (tmp_path / ".phema" / "service.json").unlink()
        with pytest.raises(ServiceUnreachable, match=r"the service of state folder \.phema is still starting"):
            find_url({})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_broken_file_is_no_service(tmp_path: Path, text: str) -> None:
    (tmp_path / ".phema").mkdir()
    (tmp_path / ".phema" / "service.json").write_text(text)
    with pytest.raises(ServiceUnreachable):
        find_url({})


def test_a_command_never_asks_whoever_listens_on_the_usual_port(
    service: Service, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHEMA_URL")
    code, out, err = cli("runs", "list")
    assert (code, out) == (1, "")
    assert err.startswith("phema: no service runs from state folder .phema; start one with `phema up`, or give the")


def test_a_new_state_folder_is_private(tmp_path: Path) -> None:
    with running(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


OWNER = """
import sys, threading
from pathlib import Path
from phema.local_service.state_folder import StateFolder
state = StateFolder(Path(sys.argv[1]), document="service.json", lock="up.lock", owner="", end_command="")
with state.owned():
    print("owned", flush=True)
    threading.Event().wait()
"""


def test_down_ends_the_owner_and_never_a_process_that_only_has_its_id(tmp_path: Path, cli: Cli) -> None:
    """The process id in a document that a killed service left is another process's now, and a new service starts."""
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        try:
            left_by_a_killed_service(tmp_path / ".phema", bystander.pid)
            command = [sys.executable, "-c", OWNER, str(tmp_path / ".phema")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
                try:
                    assert owner.stdout is not None
                    assert owner.stdout.readline() == "owned\n"
                    assert cli("down")[:2] == (0, "stopped the service of .phema\n")
                    owner.wait()
                finally:
                    owner.kill()
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert cli("down")[:2] == (0, "no service runs from .phema\n")
