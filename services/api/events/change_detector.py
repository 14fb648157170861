"""Finds what changed in the catalog since the last look, with a few small queries."""

from __future__ import annotations

from phema.services.api.events.schemas import Change, RunChange
from phema.services.api.jobs.service import to_job
from phema.shared import catalog
from phema.shared.catalog import JobKind, Transaction

MOST = 500
"""Rows that one query returns. Of more changes at once, those of the oldest are left out."""
_LATE = 200
"""A transaction that took its number earlier may commit later: so many numbers are looked at again."""
_OVERLAP_SECONDS = 30.0
"""Jobs that ended this long before the last look are looked at again, for the same reason."""

Seen = tuple[object, ...]


class ChangeDetector:
    """Remembers the jobs and runs of the last look. Not thread-safe."""

    def __init__(self, tx: Transaction, now: float) -> None:
        """`now`: the database's clock. What is in the catalog already is no change."""
        self._newest = tx.changes.newest_job()
        self._looked_at = now
        self._jobs: dict[str, Seen] = {}
        self._runs: dict[str, Seen] = {}
        self.look(tx, now)

    def look(self, tx: Transaction, now: float) -> list[Change]:
        """The changes since the last look, one per job and run."""
        running = tx.changes.running_jobs(MOST)
        rows = {row.id: row for row in running}
        for row in tx.changes.jobs_after(max(0, self._newest - _LATE), MOST):
            rows.setdefault(row.id, row)
            self._newest = max(self._newest, row.seq)
        for row in tx.changes.ended_jobs(self._looked_at - _OVERLAP_SECONDS, MOST):
            rows.setdefault(row.id, row)
        if gone := self._jobs.keys() - rows.keys():
            rows |= {row.id: row for row in tx.changes.jobs(list(gone)[:MOST])}
        self._looked_at = now
        changed = [row for row in rows.values() if self._jobs.get(row.id) != _state(row)]
        # An ended job that left all windows is forgotten, since it cannot change any more.
        self._jobs = {row.id: _state(row) for row in rows.values() if row.id not in gone or not row.state.terminal}
        return [*(Change(kind="job", run_id=row.run_id, job=to_job(row)) for row in changed), *self._of_runs(tx, rows)]

    def _of_runs(self, tx: Transaction, jobs: dict[str, catalog.Job]) -> list[Change]:
        training = {job.run_id for job in jobs.values() if job.kind in (JobKind.TRAIN, JobKind.EXTERNAL) and job.run_id}
        if not training:
            return []
        times = tx.changes.latest_times(training)
        found = {row.id: (row.num_images, *times[row.id]) for row in tx.runs.with_ids(training)}
        changed = {run: state for run, state in found.items() if self._runs.get(run) != state}
        self._runs = dict(found)
        return [
            Change(
                kind="run",
                run_id=run,
                run=RunChange(run_id=run, num_images=images, history_at=history, snapshot_at=snapshot),
            )
            for run, (images, history, snapshot) in changed.items()
        ]


def _state(row: catalog.Job) -> Seen:
    return (
        row.state,
        row.progress,
        row.message,
        row.trouble,
        row.attempts,
        row.fence,
        row.working,
        row.cancel_requested,
        row.pause_requested,
        row.error,
    )
