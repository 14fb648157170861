"""Objects that a training stored while it could not list them for deletion, because the catalog was away.

If the training dies before the catalog is back, neither a row nor the list of deletions names such an object. So it
first leaves a note in the store: a small object that holds the key. The run's next attempt, or the trainer once the
run's job has ended, lists the objects of all notes that nothing names. Objects without a note are left alone, because
`phema db rebuild` may restore their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from phema.shared.catalog import Transaction
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.stores.object_keys import unlisted_key, unlisted_prefix


def leave_note(store: ObjectStore, run_id: str, key: str) -> None:
    """Before an object is stored unlisted. Raises the errors of the store."""
    store.put(unlisted_key(run_id, key), key.encode())


def remove_note(store: ObjectStore, run_id: str, key: str) -> None:
    """Once the object is listed. Raises the errors of the store."""
    store.delete(unlisted_key(run_id, key))


def list_noted(store: ObjectStore, run_id: str, write: Callable[[list[str]], object]) -> None:
    """Call `write` with the keys in all notes of the run, then remove the notes. Call it outside of any transaction.

    `write` lists those of them that `unnamed` returns. Raises what `write` raises, and the errors of the store.
    """
    notes = [info.key for info in store.list(unlisted_prefix(run_id))]
    if notes:
        write([store.get(note).decode() for note in notes])
        for note in notes:
            store.delete(note)


def unnamed(tx: Transaction, run_id: str, keys: Iterable[str]) -> list[str]:
    """Those of the keys that no row of the run and no entry of the list of deletions names.

    The caller must make sure that no training writes objects of the run: hold its job, or see that the job has ended.
    """
    snapshots = [*tx.snapshots.list(run_id), *tx.snapshots.retired(run_id)]
    named = {row.key for row in snapshots} | {row.key for row in tx.checkpoints.all_but_latest(run_id, 0)}
    named |= tx.deletions.keys()
    return [key for key in keys if key not in named]
