"""Rows of `/v1/runs/{run}/event-log`: what happened to a run, when, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import EventKind, Job, JobKind, RunEvent
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.repository import Repository, Rows

OF_RUNS = (JobKind.TRAIN, JobKind.EXTERNAL)
"""The state of a run is that of its job of one of these kinds."""


SETTLED_SECONDS = 900.0
"""No event is committed later that is older than this: no transaction takes as long."""


@dataclass(frozen=True)
class EventCounts:
    """How many events of each kind there are."""

    counts: Counter[EventKind] = field(default_factory=Counter)
    until: int = 0
    """The largest `seq` that is counted for good."""
    settled: EventCounts | None = None
    """What the next count need not count again."""


class RunEventRepository(Repository):
    """Events are written in the transaction of the change that they record."""

    def record(
        self,
        run_id: str,
        kind: EventKind,
        *,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        job_id: str | None = None,
        attempt: int | None = None,
    ) -> None:
        """Add an event. `reason`: why, in one sentence."""
        self._session.add(
            RunEvent(run_id=run_id, kind=kind, reason=reason, details=details, job_id=job_id, attempt=attempt)
        )
        self._session.flush()

    def record_job(
        self, job: Job, kind: EventKind, *, reason: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        """Add an event about the job of a run. Jobs of other kinds have none: their attempts tell their history."""
        if job.kind in OF_RUNS and job.run_id is not None:
            self.record(job.run_id, kind, reason=reason, details=details, job_id=job.id, attempt=job.fence or None)

    def list(self, run_id: str, *, after: str | None = None, limit: int = 50) -> Page[RunEvent]:
        """A page of a run's events, oldest first. Raises `BadCursor`."""
        query = select(RunEvent).where(RunEvent.run_id == run_id)
        if after is not None:
            query = query.where(RunEvent.seq > decode_cursor(after, int)[0])
        found = self._all(query.order_by(RunEvent.seq).limit(limit + 1))
        return cut(found, limit, lambda row: encode_cursor(row.seq))

    def latest(self, run_id: str, number: int) -> Rows[RunEvent]:
        """The latest `number` events of a run, oldest first."""
        query = select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.seq.desc()).limit(number)
        return self._all(query)[::-1]

    def earlier_lengths(self, run_id: str) -> Rows[int]:
        """The values that `total_images` had before each extension of a run, oldest first."""
        query = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.kind == EventKind.EXTENDED)
        return [int((event.details or {})["total_images"][0]) for event in self._all(query.order_by(RunEvent.seq))]

    def counts(self, settled: EventCounts | None = None) -> EventCounts:
        """How many events of each kind there are. `settled` of an earlier result: what need not be counted again."""
        settled = settled or EventCounts()
        is_old = RunEvent.created_at < database_now() - SETTLED_SECONDS
        newest_old = select(func.max(RunEvent.seq)).where(RunEvent.seq > settled.until, is_old)
        until = self._session.scalar(newest_old) or settled.until
        settled = EventCounts(settled.counts + self._counts(settled.until, until), until)
        return EventCounts(settled.counts + self._counts(until, None), until, settled)

    def _counts(self, after: int, until: int | None) -> Counter[EventKind]:
        query = select(RunEvent.kind, func.count()).where(RunEvent.seq > after).group_by(RunEvent.kind)
        if until is not None:
            query = query.where(RunEvent.seq <= until)
        return Counter({row[0]: row[1] for row in self._session.execute(query)})

    def latest_of(self, run_id: str, kind: EventKind) -> RunEvent | None:
        """The run's newest event of this kind."""
        query = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.kind == kind)
        return self._first(query.order_by(RunEvent.seq.desc()))
