"""Renames: the record in the bucket first, then the row.

The record is on the list of deletions until the transaction that changes the row takes it off. A process that dies in
between leaves an object that is deleted a minute later, and the run keeps its name.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from phema.services.api.http.dependencies import Services
from phema.services.api.http.problems import NameTaken, Unavailable
from phema.services.api.run_plans.service import name_taken
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.shared import catalog
from phema.shared.catalog import EventKind, Transaction
from phema.shared.snapshots.files.run_renames import RunRename, renames
from phema.shared.snapshots.stores.object_keys import rename_key

_TRIES = 5


@dataclass(frozen=True)
class _Before:
    """The run before the rename."""

    run: catalog.Run
    last_rename: int | None
    """`seq` of the event of its last rename. Another value later: another request renamed the run meanwhile."""


def rename(services: Services, run: str, name: str) -> Run:
    """Raises catalog.NotFound, NameTaken, Unavailable."""
    for _ in range(_TRIES):
        with services.catalog.transaction(read_only=True) as tx:
            before = _look(tx, tx.runs.get(run))
            if before.run.name == name:
                return to_run(before.run)
            _refuse_taken(tx, name)
        key = rename_key(before.run.id, renames(services.store, before.run.id).next_number, secrets.token_hex(4))
        with services.catalog.transaction() as tx:
            tx.deletions.hold(key)
        # Outside of any transaction: on SQLite, all writers would wait for the store.
        record = RunRename(run_id=before.run.id, name=name, renamed_at=services.catalog.now())
        services.store.put(key, record.encode())
        with services.catalog.transaction() as tx:
            if (renamed := _apply(tx, before, name, key)) is not None:
                return renamed
    raise Unavailable(f"name {name}: other renames of run {run} came in between; try again")


def _look(tx: Transaction, run: catalog.Run) -> _Before:
    event = tx.run_events.latest_of(run.id, EventKind.RENAMED)
    return _Before(run, None if event is None else event.seq)


def _refuse_taken(tx: Transaction, name: str) -> None:
    try:
        tx.runs.get(name)
    except catalog.NotFound:
        return
    raise NameTaken(name_taken(name))


def _apply(tx: Transaction, before: _Before, name: str, key: str) -> Run | None:
    """Change the row. None, with nothing changed, if the run was renamed meanwhile or the record may be deleted."""
    tx.runs.lock(before.run.id)
    now = _look(tx, tx.runs.get(before.run.id))
    if (now.run.name, now.last_rename) != (before.run.name, before.last_rename) or not tx.deletions.keep(key):
        return None
    try:
        row = tx.runs.rename(before.run.id, name)
    except catalog.NameTaken as error:
        raise NameTaken(name_taken(name)) from error
    tx.run_events.record(row.id, EventKind.RENAMED, details={"from": before.run.name, "to": name})
    return to_run(row)
