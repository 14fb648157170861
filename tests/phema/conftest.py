"""One API process for the session; each test finds an empty queue and an environment without phema's variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.command.main import run as run_cli
from phema.shared.catalog import Run
from phema.shared.settings import Settings
from phema.shared.snapshots import S3Options
from tests.phema.service import Service, api

_numbers = count(1)


@pytest.fixture(autouse=True)
def _no_service_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the developer has running is none of the tests' business."""
    for name in [name for name in os.environ if name.startswith("PHEMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with api(Settings(state_dir=tmp_path_factory.mktemp("state"))) as service:
        yield service


@pytest.fixture
def service(_api: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("PHEMA_URL", _api.url)
    yield _api
    _api.clear_queue()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client() as opened:
        yield opened


@pytest.fixture
def name() -> str:
    """A name that no other test gives a run."""
    return f"run{next(_numbers)}"


@pytest.fixture
def trained(service: Service, client: Client, name: str) -> Run:
    """A run with 16 snapshots, at rest."""
    created = client.runs.create(name)
    with service.catalog.transaction() as tx:
        tx.jobs.request_cancel(created.job.id)
        run = tx.runs.get(created.id)
    service.snapshot(run)
    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_cli(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def s3_service(s3_options: tuple[str, S3Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An API of the test's own on S3, with the token "secret"; this process can reach the bucket too."""
    url, options = s3_options
    variables = {
        "PHEMA_API_TOKEN": "secret",
        "PHEMA_STORE_URL": url,
        "PHEMA_S3_ENDPOINT_URL": options.endpoint_url or "",
        "PHEMA_S3_ACCESS_KEY_ID": options.access_key_id or "",
        "PHEMA_S3_SECRET_ACCESS_KEY": options.secret_access_key or "",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with api(Settings(state_dir=tmp_path / "state")) as service:
        yield service
