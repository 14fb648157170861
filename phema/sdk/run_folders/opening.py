"""`phema.open`: a run in a folder or bucket. Torch-free."""

from __future__ import annotations

from phema.sdk.run_folders.folder_runs import NoRun, find_run, store_at
from phema.sdk.run_folders.stored_run import StoredRun
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.locations import Location


def open(location: Location, run: str | None = None) -> StoredRun:
    """Open the run in a folder or bucket: what `phema.SnapshotWriter` wrote there, or the store of a service.

    `location` is a path, `file:///folder` or `s3://bucket/prefix`; S3 uses the `PHEMA_S3_*` settings. `run` is a name
    or an id; None is the only run. No service is needed, and nothing is written. Raises phema.PhemaError and
    phema.shared.snapshots.SnapshotError.
    """
    store = store_at(location)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise NoRun(f"{location} is no folder on this machine")
    return StoredRun(location, store, find_run(store, location, run))
