"""An API that cannot start prints one sentence and exits with code 1."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phema.services.api.__main__ import main
from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from tests.api.process import ROOT, environment
from tests.fixtures.catalog import only

Start = Callable[[Settings, dict[str, str]], str]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Start]:
    """`python -m phema.services.api` in this process; returns its sentence."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(settings: Settings, more: dict[str, str]) -> str:
        for name in [name for name in os.environ if name.startswith("PHEMA_")]:
            monkeypatch.delenv(name)
        for name, value in {**environment(settings), **more}.items():
            monkeypatch.setenv(name, value)
        assert main() == 1
        out, err = capsys.readouterr()
        return _sentence(out, err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@only("sqlite")
def test_the_api_uses_one_blas_thread(catalog: Catalog, settings: Settings) -> None:
    """Whatever the machine offers. Only `serve` is replaced, which would not return."""
    program = (
        "import threadpoolctl\n"
        "from phema.services.api import __main__ as api\n"
        "api.serve = lambda app, settings: print([p['num_threads'] for p in threadpoolctl.threadpool_info()])\n"
        "raise SystemExit(api.main())"
    )
    offered = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(settings) | offered, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


def _sentence(out: str, err: str) -> str:
    assert out == ""
    assert err.startswith("phema api cannot start: "), err
    assert err.count("\n") == 1
    return err


@only("sqlite")
def test_a_real_process_says_it_and_ends(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    old = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/empty.db"})
    command = [sys.executable, "-m", "phema.services.api"]
    done = subprocess.run(command, env=environment(old), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "phema db upgrade" in _sentence(done.stdout, done.stderr)


@only("postgres")
def test_a_wrong_database_password(settings: Settings, start: Start) -> None:
    sentence = start(settings, {"PHEMA_DATABASE_URL": settings.database_url.replace("a-test-password", "secret-word")})
    assert "password authentication failed" in sentence
    assert "secret-word" not in sentence


@only("sqlite")
def test_a_missing_bucket(settings: Settings, s3_settings: dict[str, Any], start: Start) -> None:
    on_s3 = Settings(**{**_given(settings), **s3_settings, "store_url": "s3://no-such-bucket/store"})
    assert "no-such-bucket" in start(on_s3, {})


@only("sqlite")
def test_a_store_that_cannot_be_reached(settings: Settings, s3_settings: dict[str, Any], start: Start) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        on_s3 = Settings(**{**_given(settings), **s3_settings, "s3_endpoint_url": endpoint})
        assert endpoint in start(on_s3, {})


@only("sqlite")
def test_a_port_on_which_another_listens(settings: Settings, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"api_port {port}: Address already in use" in start(settings, {"PHEMA_API_PORT": port})


@only("sqlite")
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PHEMA_API_PORT", "99999", "PHEMA_API_PORT '99999': must be less than or equal to 65535"),
        ("PHEMA_API_HOST", "0.0.0.0", "set api_token"),
        ("PHEMA_STORE_URL", "ftp://x", "store_url 'ftp://x' must start with"),
        ("PHEMA_STORE_URL", "s3://", "s3://"),
        ("PHEMA_DATABASE_URL", "oracle://x", "postgresql://"),
    ],
)
def test_a_wrong_setting(settings: Settings, start: Start, variable: str, value: str, words: str) -> None:
    assert words in start(settings, {variable: value})


def _given(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}
