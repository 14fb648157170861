"""Real Ray, real catalogs, real stores. Two laboratories serve all tests of the room, because starting a worker and
its actor takes longer than most of them: a machine of one's own, and servers that can go away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from phema.shared.catalog import Catalog
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.snapshots.stores.options import S3Options
from tests.phema_worker.lab import Lab
from tests.servers.tunnel import Tunnel, tunnel

if TYPE_CHECKING:
    from phema.local_service.ray_head import RayHead
    from tests.fixtures.postgres import PostgresServer
    from tests.fixtures.s3 import S3Server

BUCKET = "phema-worker"


@dataclass
class Servers:
    """A laboratory that reaches its catalog and its store through tunnels, and the tunnels."""

    lab: Lab
    to_catalog: Tunnel
    to_store: Tunnel


@contextmanager
def _laboratory(folder: Path, catalog_url: str, store_url: str, options: S3Options | None, **env: str) -> Iterator[Lab]:
    """Its workers are stopped in the end."""
    catalog = Catalog(catalog_url)
    catalog.upgrade()
    settings = {
        "PHEMA_STATE_DIR": str(folder),
        "PHEMA_DATABASE_URL": catalog_url,
        "PHEMA_STORE_URL": store_url,
        "PHEMA_HEARTBEAT_SECONDS": "0.2",
        "PHEMA_LEASE_SECONDS": "3",
        "PHEMA_POLL_SECONDS": "0.1",
    }
    if options is not None:
        settings |= {
            "PHEMA_S3_ENDPOINT_URL": str(options.endpoint_url),
            "PHEMA_S3_ACCESS_KEY_ID": str(options.access_key_id),
            "PHEMA_S3_SECRET_ACCESS_KEY": str(options.secret_access_key),
        }
    lab = Lab(folder, catalog, open_store(store_url, s3=options), settings | env)
    try:
        yield lab
    finally:
        lab.close()
        catalog.close()


@pytest.fixture(scope="package")
def local_lab(ray_cluster: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """SQLite and a folder. Its workers may be killed."""
    folder = tmp_path_factory.mktemp("lab")
    with _laboratory(folder, f"sqlite:///{folder / 'catalog.db'}", (folder / "store").as_uri(), None) as lab:
        yield lab


@pytest.fixture(scope="package")
def servers(
    ray_cluster: RayHead,
    s3_server: S3Server,
    postgres_server: PostgresServer,
    postgres_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Servers]:
    """PostgreSQL and S3, both behind tunnels; its worker has two actors. A lease outlives every outage a test makes."""
    client = s3_server.client()
    client.create_bucket(Bucket=BUCKET)
    client.close()
    database = postgres_server.create_database(postgres_template)
    s3_port = int(s3_server.endpoint_url.rsplit(":", 1)[1])
    with tunnel(postgres_server.port) as to_catalog, tunnel(s3_port) as to_store:
        catalog_url = postgres_server.url(database).replace(f":{postgres_server.port}/", f":{to_catalog.port}/")
        options = S3Options(**vars(s3_server.options) | {"endpoint_url": f"http://127.0.0.1:{to_store.port}"})
        folder = tmp_path_factory.mktemp("servers")
        settings = {"PHEMA_LEASE_SECONDS": "600", "PHEMA_WORKER_ACTORS": "2"}
        with _laboratory(folder, catalog_url, f"s3://{BUCKET}/store", options, **settings) as lab:
            yield Servers(lab, to_catalog, to_store)
    postgres_server.drop_database(database)


@pytest.fixture(params=["local", "servers"])
def working_lab(request: pytest.FixtureRequest) -> Lab:
    """Each of the two in turn (see `only`), with one warm worker."""
    lab: Lab = (
        request.getfixturevalue("local_lab") if request.param == "local" else request.getfixturevalue("servers").lab
    )
    lab.worker()
    return lab


def only(kind: str) -> pytest.MarkDecorator:
    """Run a test that uses `working_lab` on `local` or `servers` alone."""
    return pytest.mark.parametrize("working_lab", [kind], indirect=True)
