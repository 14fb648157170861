"""Records of deleted runs, so that a rebuild of the catalog does not bring back a half-deleted one. Torch-free.

The record is written before the first object of the run is deleted, and stays for good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from phema.shared.snapshots.errors import ObjectExists
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import (
    TOMBSTONES,
    basis_records_prefix,
    logs_prefix,
    run_prefix,
    tombstone_key,
    unlisted_prefix,
)


class DeletedRun(BaseModel):
    """A run whose objects are deleted, or about to be."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    name: str
    delete_at: float
    """When the run was due to be deleted, in seconds since the epoch."""


def record_deletion(store: ObjectStore, run: DeletedRun) -> None:
    """Record that the run is deleted. Safe to repeat. Raises the errors of the store."""
    # An earlier attempt at the deletion may have recorded another name.
    with contextlib.suppress(ObjectExists):
        store.put(tombstone_key(run.id), run.model_dump_json(indent=1).encode())


def deleted_runs(store: ObjectStore) -> set[str]:
    """Ids of the runs that were deleted. Raises the errors of the store."""
    return {info.key.removeprefix(TOMBSTONES).removesuffix(".json") for info in store.list(TOMBSTONES)}


def keys_of_run(store: ObjectStore, run_id: str) -> Iterator[tuple[str, int]]:
    """(key, bytes) of every object that is stored under the run's id. Raises the errors of the store."""
    for prefix in (run_prefix(run_id), logs_prefix(run_id), basis_records_prefix(run_id), unlisted_prefix(run_id)):
        for info in store.list(prefix):
            yield info.key, info.size
