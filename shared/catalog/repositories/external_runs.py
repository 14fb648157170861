"""Runs that phema does not train: the user's own training loops, and runs imported from files.

The job of such a run is `running` from the start, without an attempt and without a lease. No service claims it and it
never expires; the user ends it.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.content_keys import canonical
from phema.shared.catalog.errors import NameTaken
from phema.shared.catalog.models import PRIORITY, Job, JobKind, JobState, Run
from phema.shared.catalog.repositories.repository import Repository
from phema.shared.catalog.repositories.runs import RunRepository


class ExternalRunRepository(Repository):
    def __init__(self, session: Session, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs

    def open(self, name: str, *, origin: str, config: dict[str, Any], total_images: int | None) -> tuple[Run, bool]:
        """(the run with this name, origin and configuration, in any state; whether it is new).

        `total_images` None: the length grows with the snapshots. Raises `NameTaken` when another run has the name.
        """
        run_id = new_id("run", 6)
        if self._insert_run(run_id, name, origin, config, total_images):
            return self._runs.get(run_id), True
        existing = self._first(select(Run).where(Run.name == name))
        if existing is None or existing.origin != origin or existing.config_hash != _hash(config):
            raise NameTaken(name)
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

    def reopen(self, run_id: str) -> Run:
        """Let an ended run accept snapshots again. A running one stays unchanged."""
        self._runs.lock(run_id)
        run = self._runs.get(run_id)
        if run.state.terminal:
            # An ended job is final, so the run gets a new one.
            job_id = new_id("job")
            self._start(run_id, job_id, run.job.payload)
            self._session.execute(update(Run).where(Run.id == run_id).values(job_id=job_id))
        return self._runs.get(run_id)

    def finish(self, run_id: str) -> Run:
        """End a running run as succeeded. An ended run stays unchanged."""
        self._runs.lock(run_id)
        statement = (
            update(Job)
            .where(Job.id == self._runs.get(run_id).job_id, Job.state == JobState.RUNNING)
            .values(state=JobState.SUCCEEDED, progress=1.0, finished_at=database_now())
            .execution_options(synchronize_session=False)
        )
        self._session.execute(statement)
        return self._runs.get(run_id)

    def seen(self, run_id: str, num_images: int) -> None:
        """Raise the run's progress to at least `num_images`, the time of a registered snapshot."""
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


def _hash(config: dict[str, Any]) -> str:
    """As `RunConfig.config_hash`, for any description of a run."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()
