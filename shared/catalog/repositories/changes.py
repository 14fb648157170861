"""What changed since an earlier look: for live views of jobs and runs."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select

from phema.shared.catalog.models import HistoryPoint, Job, JobState, Snapshot
from phema.shared.catalog.repositories.repository import Repository, Rows


class ChangeRepository(Repository):
    """Every query reads few rows through an index, however many jobs and runs there are."""

    def newest_job(self) -> int:
        """`seq` of the newest job; 0 without jobs."""
        return self._session.scalar(select(func.max(Job.seq))) or 0

    def jobs_after(self, seq: int, limit: int) -> Rows[Job]:
        """The newest jobs after `seq`, at most `limit`, oldest first."""
        return self._all(select(Job).where(Job.seq > seq).order_by(Job.seq.desc()).limit(limit))[::-1]

    def running_jobs(self, limit: int) -> Rows[Job]:
        """Running jobs, oldest first."""
        return self._all(select(Job).where(Job.state == JobState.RUNNING).order_by(Job.seq).limit(limit))

    def ended_jobs(self, since: float, limit: int) -> Rows[Job]:
        """The latest jobs that ended at `since` (seconds since the epoch, the database's clock) or later, by time."""
        query = select(Job).where(Job.finished_at >= since).order_by(Job.finished_at.desc()).limit(limit)
        return self._all(query)[::-1]

    def jobs(self, ids: Iterable[str]) -> Rows[Job]:
        """The jobs with these ids, in the order of their creation."""
        return self._all(select(Job).where(Job.id.in_(list(ids))).order_by(Job.seq))

    def latest_times(self, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """By run: the times, in images, of its latest history row and its latest snapshot; 0 without."""
        wanted = list(ids)
        found = {}
        for column in (HistoryPoint, Snapshot):
            query = select(column.run_id, func.max(column.num_images)).where(column.run_id.in_(wanted))
            found[column] = {row[0]: row[1] for row in self._session.execute(query.group_by(column.run_id))}
        return {run: (found[HistoryPoint].get(run) or 0, found[Snapshot].get(run) or 0) for run in wanted}
