"""The environment that an attempt gets through Ray contains the settings and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from phema.services.trainer.control.job_environment import FIELDS, MissingSecret, check_secrets, job_environment
from phema.shared.settings import Settings


def test_an_attempt_gets_the_settings_of_its_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path / "state", lease_seconds=33, heartbeat_seconds=3, log_level="debug")
    passed, inherited = job_environment(settings)
    assert inherited == ()
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    there = Settings()
    assert there.catalog_url == settings.catalog_url
    assert there.object_store_url == settings.object_store_url
    for name in set(FIELDS) - {"database_url", "store_url"}:
        assert getattr(there, name) == getattr(settings, name), name


def test_relative_folders_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    passed, _ = job_environment(Settings(state_dir=Path("here")))
    assert passed["PHEMA_STATE_DIR"] == str(tmp_path / "here")
    assert passed["PHEMA_DATABASE_URL"] == f"sqlite:///{tmp_path / 'here' / 'catalog.db'}"
    assert passed["PHEMA_STORE_URL"] == f"file://{tmp_path / 'here' / 'store'}"


@pytest.mark.parametrize(
    "url", ["postgresql://phema:hunter2@db/phema", "postgresql://db/phema?user=phema&password=hunter2"]
)
def test_secrets_are_named_and_not_passed(url: str) -> None:
    settings = Settings(
        database_url=url,
        store_url="s3://bucket/prefix",
        s3_access_key_id="AKIAEXAMPLE",
        s3_secret_access_key=SecretStr("hunter2"),
        api_token=SecretStr("hunter2"),
    )
    passed, inherited = job_environment(settings)
    assert "hunter2" not in str(passed)
    assert "AKIAEXAMPLE" not in str(passed)
    assert set(inherited) == {"PHEMA_DATABASE_URL", "PHEMA_S3_ACCESS_KEY_ID", "PHEMA_S3_SECRET_ACCESS_KEY"}
    assert not set(passed) & set(inherited)


def test_a_catalog_without_a_password_is_passed() -> None:
    passed, inherited = job_environment(Settings(database_url="postgresql://db/phema"))
    assert (passed["PHEMA_DATABASE_URL"], inherited) == ("postgresql://db/phema", ())


def test_an_attempt_refuses_to_start_without_its_secrets() -> None:
    check_secrets((), {})
    check_secrets(("PHEMA_DATABASE_URL",), {"PHEMA_DATABASE_URL": "postgresql://…"})
    with pytest.raises(MissingSecret, match="PHEMA_DATABASE_URL is a secret, which is not passed through Ray's"):
        check_secrets(("PHEMA_DATABASE_URL",), {"PHEMA_DATABASE_URL": ""})
