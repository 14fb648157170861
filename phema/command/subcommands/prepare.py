"""`phema prepare`: create the bucket and the catalog's schema before services start."""

from __future__ import annotations

from contextlib import closing

from phema.command.options import JsonFlag, screen, server_packages


def prepare(as_json: JsonFlag = False) -> None:
    """Create the bucket if it is missing, and upgrade the catalog's schema to this version. Safe to repeat.

    Also makes the bucket abort uploads that a killed process left unfinished for 7 days, if the server can do that.
    """
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from, store_from

    view, settings = screen(as_json), Settings()
    with server_packages(), closing(catalog_from(settings)) as catalog:
        from phema.shared.snapshots.stores.s3.bucket_creation import make_bucket
        from phema.shared.snapshots.stores.s3.store import S3Store
        from phema.shared.snapshots.stores.s3.unfinished_uploads import add_lifecycle_rule

        store = store_from(settings)
        made = make_bucket(store, settings.s3_region)
        rule = add_lifecycle_rule(store.bucket) if isinstance(store, S3Store) else None
        removed = store.sweep()
        catalog.upgrade()
    if rule == "refused":
        view.note("the server takes no lifecycle rule for unfinished uploads; workers abort them after 7 days instead")
    bucket = "the bucket is made" if made else "the store was there"
    swept = f"; {removed} abandoned uploads are removed" if removed else ""
    view.result(
        {"bucket_made": made, "upgraded": True, "lifecycle_rule": rule, "abandoned_uploads_removed": removed},
        lambda: view.say(f"{bucket}; the catalog is up to date{swept}"),
    )
