"""Where the service is when nobody says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.client.service_discovery import DEFAULT_URL, find_url


def left_by_up(folder: Path, pid: int) -> None:
    folder.mkdir()
    (folder / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:1234", "pid": pid}))


def test_the_environment_goes_before_the_state_folder(tmp_path: Path) -> None:
    left_by_up(tmp_path / ".phema", os.getpid())
    assert find_url({"PHEMA_URL": "http://elsewhere"}) == "http://elsewhere"
    assert find_url({}) == "http://127.0.0.1:1234"
    assert Client().url == "http://127.0.0.1:1234"


def test_the_state_folder_can_be_elsewhere(tmp_path: Path) -> None:
    left_by_up(tmp_path / "state", os.getpid())
    assert find_url({}) == DEFAULT_URL
    assert find_url({"PHEMA_STATE_DIR": str(tmp_path / "state")}) == "http://127.0.0.1:1234"


def test_a_killed_service_is_not_there(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left_by_up(tmp_path / ".phema", gone.pid)
    assert find_url({}) == DEFAULT_URL


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "http://x", "pid": "many"}'])
def test_a_broken_file_is_no_service(tmp_path: Path, text: str) -> None:
    (tmp_path / ".phema").mkdir()
    (tmp_path / ".phema" / "service.json").write_text(text)
    assert find_url({}) == DEFAULT_URL
