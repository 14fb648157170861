"""Real Ray, real catalog, real store; one warm worker per kind of store for all tests that kill nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.catalog import Catalog
from shared.snapshots.store import S3Options, open_store
from tests.phema_worker.lab import Lab

if TYPE_CHECKING:
    from phema.ray_head import RayHead
    from tests.fixtures.s3 import S3Server


@contextmanager
def laboratory(
    folder: Path, store_url: str, options: S3Options | None, *, catalog_url: str | None = None
) -> Iterator[Lab]:
    """A migrated catalog (SQLite unless a URL is given) and a store; its workers are stopped in the end."""
    url = catalog_url or f"sqlite:///{folder / 'catalog.db'}"
    catalog = Catalog(url)
    catalog.upgrade()
    env = {
        "PHEMA_STATE_DIR": str(folder),
        "PHEMA_DATABASE_URL": url,
        "PHEMA_STORE_URL": store_url,
        "PHEMA_HEARTBEAT_SECONDS": "0.2",
        "PHEMA_LEASE_SECONDS": "3",
        "PHEMA_POLL_SECONDS": "0.05",
    }
    if options is not None:
        env |= {
            "PHEMA_S3_ENDPOINT_URL": str(options.endpoint_url),
            "PHEMA_S3_ACCESS_KEY_ID": str(options.access_key_id),
            "PHEMA_S3_SECRET_ACCESS_KEY": str(options.secret_access_key),
        }
    lab = Lab(folder, catalog, open_store(store_url, s3=options), env)
    try:
        yield lab
    finally:
        for worker in lab.workers:
            worker.stop()
        catalog.close()


@pytest.fixture
def lab(ray_cluster: RayHead, tmp_path: Path) -> Iterator[Lab]:
    """For tests that start and end workers themselves, on a local store."""
    with laboratory(tmp_path, (tmp_path / "store").as_uri(), None) as made:
        yield made


@pytest.fixture(scope="module", params=["local", "s3"])
def working_lab(
    request: pytest.FixtureRequest, ray_cluster: RayHead, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A worker is up; tests share it and its catalog, each with a run of its own."""
    folder = tmp_path_factory.mktemp("lab")
    url, options = (folder / "store").as_uri(), None
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        client = server.client()
        client.create_bucket(Bucket="phema-worker")
        client.close()
        url, options = "s3://phema-worker/store", server.options
    with laboratory(folder, url, options) as made:
        made.start_worker().ready()
        yield made
