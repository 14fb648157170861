"""Runs that phema does not train: the user's own training loops, and runs imported from files.

The job of such a run is `running` from the start, without an attempt and without a lease. No service claims it and it
never expires; the user ends it.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.content_keys import canonical
from phema.shared.catalog.errors import NameTaken, RunToBeDeleted
from phema.shared.catalog.models import PRIORITY, EventKind, Job, JobKind, JobState, Run, Snapshot
from phema.shared.catalog.repositories.repository import FRESH, Repository
from phema.shared.catalog.repositories.run_events import RunEventRepository
from phema.shared.catalog.repositories.runs import RunRepository

SILENT_INTERVALS = 3.0
"""A writer is silent that has not written for so many of the usual times between two of its snapshots."""
UNKNOWN_INTERVAL = 6.0
_TIMES = 9
"""Latest times of snapshots from which the usual time between two is taken, as the median."""


class ExternalRunRepository(Repository):
    def __init__(self, session: Session, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs
        self._events = RunEventRepository(session)

    def open(self, name: str, *, origin: str, config: dict[str, Any], total_images: int | None) -> tuple[Run, bool]:
        """(the run with this name, origin and configuration, in any state; whether it is new).

        `total_images` None: the length grows with the snapshots. Raises `NameTaken` when another run has the name.
        """
        run_id = new_id("run", 6)
        if self._insert_run(run_id, name, origin, config, total_images):
            self.wrote(run_id)
            return self._runs.get(run_id), True
        existing = self._first(select(Run).where(Run.name == name))
        if existing is None or existing.origin != origin or existing.config_hash != _hash(config):
            raise NameTaken(name)
        if not existing.state.terminal:
            self.wrote(existing.id)
        return existing, False

    def restore(
        self,
        run_id: str,
        *,
        name: str,
        origin: str,
        config: dict[str, Any],
        total_images: int | None,
        num_images: int,
    ) -> bool:
        """Write a run that was found in the store. False when the catalog has the run already.

        The store does not record whether the user had ended the run. The run is open, unless its snapshots reach
        `total_images`. Raises `NameTaken` when another run has the name.
        """
        if self._first(select(Run).where(Run.id == run_id)) is not None:
            return False
        if not self._insert_run(run_id, name, origin, config, total_images):
            raise NameTaken(name)
        self.seen(run_id, num_images)
        if total_images is not None and num_images >= total_images:
            self.finish(run_id)
        return True

    def wrote(self, run_id: str) -> None:
        """Note that the writer of an open run has written, or has said that it is alive."""
        self._runs.lock(run_id)
        run = self._runs.get(run_id)
        if run.silent_since is not None:
            RunEventRepository(self._session).record(run_id, EventKind.HEARD, job_id=run.job_id)
        self._session.execute(update(Run).where(Run.id == run_id).values(written_at=database_now(), silent_since=None))

    def note_silent(self, *, at_least_s: float) -> list[Run]:
        """Record the silence of open external runs whose writers have not written for longer than they may.

        That is SILENT_INTERVALS times the usual time between two snapshots, but at least `at_least_s`. Until a run has
        snapshots at three times, it is UNKNOWN_INTERVAL times `at_least_s`. Returns the runs that are silent since now.
        """
        quiet = select(Run).join(Job, Job.id == Run.job_id).where(*_may_be_silent(at_least_s))
        found: list[Run] = []
        for candidate in self._all(quiet):
            self._runs.lock(candidate.id)  # the writer may write just now
            again = self._session.execute(
                select(Run, database_now())
                .join(Job, Job.id == Run.job_id)
                .where(Run.id == candidate.id, *_may_be_silent(at_least_s)),
                execution_options=FRESH,
            ).one_or_none()
            if again is None:
                continue
            run, now = again
            silence = now - float(run.written_at or now)
            if silence <= self._longest_silence(run.id, at_least_s):
                continue
            self._session.execute(update(Run).where(Run.id == run.id).values(silent_since=Run.written_at))
            reason = f"The writer has not written for {silence:.0f} s."
            RunEventRepository(self._session).record(run.id, EventKind.SILENT, reason=reason, job_id=run.job_id)
            found.append(run)
        return found

    def _longest_silence(self, run_id: str, at_least_s: float) -> float:
        """Seconds for which the run's writer may be silent."""
        first = func.min(Snapshot.created_at)
        times = select(first).where(Snapshot.run_id == run_id).group_by(Snapshot.num_images)
        latest = list(self._session.scalars(times.order_by(first.desc()).limit(_TIMES)))
        if len(latest) < 3:
            return UNKNOWN_INTERVAL * at_least_s
        between = sorted(later - earlier for later, earlier in pairwise(latest))
        return max(at_least_s, SILENT_INTERVALS * between[len(between) // 2])

    def reopen(self, run_id: str) -> Run:
        """Let an ended run accept snapshots again. A running one stays unchanged. Raises `RunToBeDeleted`."""
        self._runs.lock(run_id)
        run = self._runs.get(run_id)
        if run.delete_at is not None:
            raise RunToBeDeleted(run.name, run.delete_at)
        if run.state.terminal:
            # An ended job is final, so the run gets a new one.
            job_id = new_id("job")
            self._start(run_id, job_id, run.job.payload)
            self._session.execute(update(Run).where(Run.id == run_id).values(job_id=job_id))
            self._events.record(run_id, EventKind.RESUMED, job_id=job_id)
            self.wrote(run_id)
        return self._runs.get(run_id)

    def finish(self, run_id: str) -> Run:
        """End a running run as succeeded. An ended run stays unchanged."""
        self._runs.lock(run_id)
        statement = (
            update(Job)
            .where(Job.id == self._runs.get(run_id).job_id, Job.state == JobState.RUNNING)
            .values(state=JobState.SUCCEEDED, progress=1.0, finished_at=database_now())
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
        job_id = self._session.scalars(statement).one_or_none()
        run = self._runs.get(run_id)
        if job_id is not None:
            self._events.record(run_id, EventKind.SUCCEEDED, job_id=job_id, details={"num_images": run.num_images})
        return run

    def seen(self, run_id: str, num_images: int) -> None:
        """Raise the run's progress to at least `num_images`, the time of a registered snapshot."""
        self.wrote(run_id)
        run = self._runs.get(run_id)
        seen = max(run.num_images, num_images)
        grows = run.job.payload.get("total_images") is None
        total = max(run.total_images, seen) if grows else run.total_images
        values = {"num_images": seen, "total_images": total}
        self._session.execute(update(Run).where(Run.id == run_id).values(**values))
        progress = 0.0 if grows else min(seen / total, 1.0)
        self._session.execute(
            update(Job).where(Job.id == run.job_id, Job.state == JobState.RUNNING).values(progress=progress)
        )

    def _insert_run(
        self, run_id: str, name: str, origin: str, config: dict[str, Any], total_images: int | None
    ) -> bool:
        """False when another run has the name."""
        job_id = new_id("job")
        values = {
            "id": run_id,
            "name": name,
            "origin": origin,
            "config": config,
            "config_hash": _hash(config),
            "total_images": total_images or 1,
            "job_id": job_id,
        }
        if not self._add(Run, values, ["name"]):
            return False
        self._start(run_id, job_id, {"run_id": run_id, "total_images": total_images})
        self._events.record(run_id, EventKind.CREATED, job_id=job_id, details={"origin": origin})
        return True

    def _start(self, run_id: str, job_id: str, payload: dict[str, Any]) -> None:
        job = {
            "id": job_id,
            "kind": JobKind.EXTERNAL,
            "state": JobState.RUNNING,
            "priority": PRIORITY[JobKind.EXTERNAL],
            "run_id": run_id,
            "payload": payload,
            "content_key": f"external:{job_id}",
            "max_attempts": 0,
            "started_at": database_now(),
        }
        self._add(Job, job, ["id"])


def _may_be_silent(at_least_s: float) -> list[ColumnElement[bool]]:
    return [
        Run.origin == "external",
        Run.silent_since.is_(None),
        Run.written_at < database_now() - at_least_s,
        Job.kind == JobKind.EXTERNAL,
        Job.state == JobState.RUNNING,
    ]


def _hash(config: dict[str, Any]) -> str:
    """As `RunConfig.config_hash`, for any description of a run."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()
