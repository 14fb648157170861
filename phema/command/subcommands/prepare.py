"""`phema prepare`: create the bucket and the catalog's schema before services start."""

from __future__ import annotations

from contextlib import closing

from phema.command.options import JsonFlag, screen, server_packages


def prepare(as_json: JsonFlag = False) -> None:
    """Create the bucket if it is missing, and upgrade the catalog's schema to this version. Safe to repeat."""
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from, store_from

    view, settings = screen(as_json), Settings()
    with server_packages(), closing(catalog_from(settings)) as catalog:
        from phema.shared.snapshots.stores.s3.bucket_creation import make_bucket

        made = make_bucket(store_from(settings), settings.s3_region)
        catalog.upgrade()
    bucket = "the bucket is made" if made else "the store was there"
    view.result({"bucket_made": made, "upgraded": True}, lambda: view.say(f"{bucket}; the catalog is up to date"))
