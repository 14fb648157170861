"""Runs that were deleted, or half deleted when the catalog was lost: a rebuild leaves them out and deletes the rest."""

from __future__ import annotations

from phema.shared.catalog import Catalog
from phema.shared.snapshots.files.deleted_runs import deleted_runs, keys_of_run
from phema.shared.snapshots.stores.interface import ObjectStore


def list_leftovers(catalog: Catalog, store: ObjectStore, *, only: str | None = None) -> set[str]:
    """Ids of the deleted runs. What is left of their objects is listed for deletion, which phema workers do.

    `only`: look at this run alone. Raises CatalogError and the store's other errors.
    """
    gone = deleted_runs(store)
    if only is not None:
        gone &= {only}
    for run_id in sorted(gone):
        keys = [key for key, _ in keys_of_run(store, run_id)]
        if keys:
            with catalog.transaction() as tx:
                tx.deletions.release(keys)
    return gone
