"""The store of a training: no object is forgotten, whichever process dies when."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from phema.services.trainer.attempt import TrainingAttempt
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.service_runtime.unlisted_objects import leave_note, list_noted, remove_note, unnamed
from phema.shared.snapshots import ObjectInfo, ObjectMissing, ObjectStore, SnapshotError
from phema.shared.snapshots.files.run_document import put_run
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes
from phema.shared.snapshots.stores.object_keys import run_key

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListingStore:
    """The store of a run's uploader: lists each object for deletion before it is stored.

    The transaction that registers the object takes it off the list. So an object whose row is never written, whichever
    process dies when, is deleted once the run's job has ended. `run.json` belongs to the run's own row.

    While the catalog cannot be reached, objects are stored without being listed, so that an outage does not stop the
    training. They are listed before their rows are written (`list_late`). If the process dies before that, the next
    attempt at the run lists them (`unlisted_objects`).
    """

    attempt: TrainingAttempt
    catalog: Catalog
    store: ObjectStore
    unlisted: set[str] = field(default_factory=set)
    """Keys of stored objects that are not on the list, and have no row."""

    def put(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        """Raises LeaseLost, BeingDeleted, and the errors of the store."""
        if key == run_key(self.attempt.run_id):
            return put_run(self.store, self.attempt.run_id, data)
        try:
            self._list(key)
        except CatalogUnreachable:
            leave_note(self.store, self.attempt.run_id, key)
            self.unlisted.add(key)
        return self.store.put(key, data)

    def list_left(self) -> None:
        """List what earlier attempts at the run have stored unlisted. Raises LeaseLost.

        If the store or the catalog does not answer, the next attempt or the trainer lists it.
        """
        attempt = self.attempt

        def write(keys: list[str]) -> None:
            with attempt.fenced_transaction(self.catalog) as (tx, _):
                tx.deletions.expect(attempt.job_id, unnamed(tx, attempt.run_id, keys))

        try:
            list_noted(self.store, attempt.run_id, write)
        except (SnapshotError, CatalogUnreachable) as error:
            _log.warning("objects of earlier attempts are looked for later: %s", error)

    def list_late(self, info: ObjectInfo) -> None:
        """List an object that was stored unlisted, and make sure that it is still there.

        An ended job may have listed the same key, so that a phema worker has deleted the object meanwhile. Raises
        ObjectMissing then: the attempt fails, and the next one writes the object again. Raises LeaseLost, BeingDeleted,
        CatalogUnreachable and the errors of the store.
        """
        if info.key not in self.unlisted:
            return
        self._list(info.key)
        remove_note(self.store, self.attempt.run_id, info.key)
        if self.store.head(info.key) is None:
            raise ObjectMissing(f"object {info.key} was deleted before its row was written")
        self.unlisted.discard(info.key)

    def _list(self, key: str) -> None:
        with self.attempt.fenced_transaction(self.catalog) as (tx, _):
            tx.deletions.expect(self.attempt.job_id, [key])
