"""Counts of jobs and attempts, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

from sqlalchemy import and_, case, func, select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import LIVE_STATES, Attempt, AttemptOutcome, Job, JobKind, JobState
from phema.shared.catalog.repositories.dependencies import unblocked
from phema.shared.catalog.repositories.repository import Repository

SETTLED_SECONDS = 900.0
"""No row is added later that ended earlier than this: no transaction takes as long to commit."""
RECOUNT_SECONDS = 3600.0
"""Everything is counted again after this time, in case that the database was restored or its clock was set."""


@dataclass(frozen=True)
class EndedCounts:
    """Jobs and attempts that had ended by `until`."""

    jobs: Counter[tuple[JobKind, JobState]] = field(default_factory=Counter)
    attempts: Counter[tuple[JobKind, AttemptOutcome]] = field(default_factory=Counter)
    until: float = 0.0
    """By the database's clock."""
    counted_at: float = 0.0
    """When everything was last counted."""

    def __add__(self, newer: EndedCounts) -> EndedCounts:
        return EndedCounts(self.jobs + newer.jobs, self.attempts + newer.attempts, newer.until, self.counted_at)


@dataclass(frozen=True)
class QueueStats:
    """Counts of jobs and attempts, for metrics."""

    counts: list[tuple[JobKind, JobState, int]]
    """Without zero counts."""
    oldest_queued_seconds: dict[JobKind, float]
    """Age of the oldest queued job that could be claimed, by kind; kinds without one are missing."""
    attempts: list[tuple[JobKind, AttemptOutcome, int]]
    """Attempts that have ended, by the kind of their job; without zero counts."""
    settled: EndedCounts
    """What the next `read` need not count again."""


class QueueStatsRepository(Repository):
    def read(self, settled: EndedCounts | None = None) -> QueueStats:
        """The counts now. `settled` of an earlier result keeps the cost independent of the number of old jobs."""
        now = self._session.scalars(select(database_now())).one()
        if settled is None or not 0 <= now - settled.counted_at < RECOUNT_SECONDS:
            settled = EndedCounts(counted_at=now)
        settled = settled + self._ended(settled.until, max(now - SETTLED_SECONDS, settled.until))
        ended = settled + self._ended(settled.until, inf)
        due = case((and_(unblocked(), Job.not_before <= database_now()), Job.created_at))
        waiting = (
            select(Job.kind, Job.state, func.count(), database_now() - func.min(due))
            .where(Job.state.in_(LIVE_STATES))
            .group_by(Job.kind, Job.state)
        )
        unfinished = self._session.execute(waiting).all()
        return QueueStats(
            counts=[(kind, state, count) for kind, state, count, _ in unfinished]
            + [(kind, state, count) for (kind, state), count in ended.jobs.items()],
            oldest_queued_seconds={
                kind: max(float(age), 0.0)
                for kind, state, _, age in unfinished
                if state is JobState.QUEUED and age is not None
            },
            attempts=[(kind, outcome, count) for (kind, outcome), count in ended.attempts.items()],
            settled=settled,
        )

    def _ended(self, after: float, until: float) -> EndedCounts:
        """Rows that ended later than `after` and at the latest at `until`."""
        # Both bounds are always there: with one alone, SQLite prefers to read the whole index of the groups.
        jobs = (
            select(Job.kind, Job.state, func.count())
            .where(Job.finished_at > after, Job.finished_at <= until)
            .group_by(Job.kind, Job.state)
        )
        attempts = (
            select(Job.kind, Attempt.outcome, func.count())
            .join(Job, Attempt.job_id == Job.id)
            .where(Attempt.ended_at > after, Attempt.ended_at <= until)
            .group_by(Job.kind, Attempt.outcome)
        )
        counted = self._session.execute(jobs).all()
        outcomes = self._session.execute(attempts).all()
        return EndedCounts(
            Counter({(kind, state): count for kind, state, count in counted}),
            Counter({(kind, outcome): count for kind, outcome, count in outcomes if outcome is not None}),
            until,
        )
