"""Recorded events of runs: from rows to JSON."""

from __future__ import annotations

from phema.services.api.http.schema_base import Page
from phema.services.api.run_events.schemas import RunEvent
from phema.shared import catalog
from phema.shared.catalog import Transaction


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[RunEvent]:
    """Oldest first. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.run_events.list(tx.runs.get(run).id, after=cursor, limit=limit)
    return Page(items=[to_event(row) for row in found.items], next_cursor=found.next_cursor)


def latest(tx: Transaction, run: str, number: int) -> list[RunEvent]:
    """The latest events, oldest first. Raises catalog.NotFound."""
    return [to_event(row) for row in tx.run_events.latest(tx.runs.get(run).id, number)]


def to_event(row: catalog.RunEvent) -> RunEvent:
    return RunEvent(
        at=row.created_at,
        kind=row.kind,
        reason=row.reason,
        details=row.details,
        job_id=row.job_id,
        attempt=row.attempt,
    )
