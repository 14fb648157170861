"""An API over a real catalog (SQLite and Postgres) and a real store; modules choose the store by `object_store`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from phema.services.api.app import create_app
from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from phema.shared.snapshots import S3Options
from phema.shared.wiring import store_from
from tests.api.http import Api

TOKEN = "a-test-token"


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as opened:
        yield opened


@pytest.fixture
def store_settings(tmp_path: Path) -> dict[str, Any]:
    """Settings of an empty local store."""
    return {"store_url": (tmp_path / "store").as_uri()}


@pytest.fixture
def s3_settings(s3_options: tuple[str, S3Options]) -> dict[str, Any]:
    """Settings of an empty store on the S3 server."""
    url, options = s3_options
    return {
        "store_url": url,
        "s3_endpoint_url": options.endpoint_url,
        "s3_access_key_id": options.access_key_id,
        "s3_secret_access_key": SecretStr(options.secret_access_key or ""),
    }


@pytest.fixture
def open_api(portal: BlockingPortal, catalog: Catalog) -> Iterator[Callable[[Settings], Api]]:
    """Opens applications with settings of the test's own; `catalog` is for the test to look at its own database."""
    opened: list[Api] = []

    def open_one(settings: Settings) -> Api:
        opened.append(Api(create_app(settings), portal, catalog, store_from(settings)))
        return opened[-1]

    yield open_one
    for api in opened:
        api.close()


@pytest.fixture
def settings(tmp_path: Path, catalog_url: str, store_settings: dict[str, Any]) -> Settings:
    return Settings(state_dir=tmp_path, database_url=catalog_url, **store_settings)


@pytest.fixture
def api(open_api: Callable[[Settings], Api], settings: Settings) -> Api:
    """Without a token."""
    return open_api(settings)


@pytest.fixture
def guarded(open_api: Callable[[Settings], Api], settings: Settings) -> Api:
    """With a token, which its client sends unless asked not to."""
    return open_api(settings.model_copy(update={"api_token": SecretStr(TOKEN)}))
