"""Deletes the objects that the catalog lists for deletion (`tx.deletions`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from phema.shared.catalog import Catalog
from phema.shared.catalog.repositories.deletions import CLAIM_SECONDS
from phema.shared.snapshots import ObjectStore, SnapshotError

_BATCH = 100
"""Objects claimed at once."""


def delete_listed(
    catalog: Catalog,
    store: ObjectStore,
    keys: Sequence[str] | None = None,
    *,
    stopping: threading.Event | None = None,
) -> int:
    """Delete every listed object (of these keys) that is due, until `stopping` is set, and return their number.

    A process may die at any point: its entries stay on the list, and are due again when its claim has lapsed. An
    object that cannot be deleted does not keep the others. Raises CatalogUnreachable, and the first error of the store
    once the batch is done.
    """
    with catalog.transaction(read_only=True) as tx:  # mostly nothing is due, and writers of SQLite exclude each other
        if not tx.deletions.any_due():
            return 0
    total = 0
    while True:
        # Before the claim, so that a process that was suspended counts the time.
        deadline = time.monotonic() + CLAIM_SECONDS / 2
        with catalog.transaction() as tx:
            claimed = tx.deletions.claim(_BATCH, keys)
        if not claimed:
            return total
        deleted: list[str] = []
        failed: SnapshotError | None = None
        try:
            for key in claimed:
                if time.monotonic() > deadline or (stopping is not None and stopping.is_set()):
                    return total + len(deleted)
                try:
                    # In this order: a writer that is still at work then either finishes before `delete` or fails.
                    store.forget(key)
                    store.delete(key)
                except SnapshotError as error:
                    failed = failed or error
                else:
                    deleted.append(key)
        finally:
            with catalog.transaction() as tx:
                tx.deletions.done(deleted)
        total += len(deleted)
        if failed is not None:
            raise failed
