"""From settings to the two things every process talks to: the object store and the catalog."""

from __future__ import annotations

from shared.catalog import Catalog
from shared.settings import Settings
from shared.snapshots.store import ObjectStore, S3Options, open_store


def store_from(settings: Settings) -> ObjectStore:
    """The object store the settings name. Nothing is read or written yet."""
    secret = settings.s3_secret_access_key
    options = S3Options(
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
    )
    return open_store(settings.object_store_url, s3=options)


def catalog_from(settings: Settings) -> Catalog:
    """The catalog the settings name. Nothing is read or written yet."""
    return Catalog(settings.catalog_url)
