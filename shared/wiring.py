"""Builds from the settings what processes connect to: the object store, the catalog and datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phema.shared.datasets import Dataset, DatasetChoice, OpenRemote, open_dataset
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.snapshots.stores.options import S3Options

if TYPE_CHECKING:
    from phema.shared.catalog import Catalog


def store_from(settings: Settings) -> ObjectStore:
    """The object store of the settings. Connects on first use."""
    return open_store(settings.object_store_url, s3=s3_from(settings))


def existing_store_from(settings: Settings) -> ObjectStore | None:
    """The object store for a command that works without a service; None if there is none on this machine yet."""
    if not settings.store_url and not (settings.state_dir / "store").is_dir():
        return None
    return store_from(settings)


def s3_from(settings: Settings) -> S3Options:
    """Options of the S3 connection, for the store and for datasets."""
    secret = settings.s3_secret_access_key
    return S3Options(
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
    )


def remote_from(settings: Settings) -> OpenRemote:
    """A function that opens s3:// URLs of datasets, with the store's endpoint and credentials."""
    return lambda url: open_store(url, s3=s3_from(settings))


def dataset_from(settings: Settings, choice: DatasetChoice) -> Dataset:
    """The chosen dataset. Raises DatasetError, and a SnapshotError when S3 cannot be read."""
    return open_dataset(choice, remote=remote_from(settings))


def catalog_from(settings: Settings) -> Catalog:
    """The catalog of the settings. Connects on first use. A silent one is given up before a lease runs out."""
    # Stores and datasets work without SQLAlchemy, which only the `server` extra installs.
    from phema.shared.catalog import Catalog
    from phema.shared.catalog.engine import ANSWER_SECONDS

    return Catalog(settings.catalog_url, answer_seconds=min(ANSWER_SECONDS, settings.lease_seconds / 2))
