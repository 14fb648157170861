"""Rows of `/v1/runs`: training runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, or_, select, update
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.errors import NameTaken, NotFound
from phema.shared.catalog.models import PRIORITY, Job, JobKind, JobState, Run
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.jobs import JobRepository
from phema.shared.catalog.repositories.repository import Repository, Rows


class RunRepository(Repository):
    def __init__(self, session: Session, jobs: JobRepository) -> None:
        super().__init__(session)
        self._jobs = jobs

    def create(
        self, name: str, config: dict[str, Any], config_hash: str, total_images: int, max_attempts: int = 5
    ) -> Run:
        """Create a run and its queued `train` job. Raises `NameTaken`."""
        run_id, job_id = new_id("run", 6), new_id("job")
        values = {
            "id": run_id,
            "name": name,
            "config": config,
            "config_hash": config_hash,
            "total_images": total_images,
            "job_id": job_id,
        }
        if not self._add(Run, values, ["name"]):
            raise NameTaken(name)
        self._jobs.enqueue(
            JobKind.TRAIN,
            payload={"run_id": run_id},
            content_key=f"train:{run_id}",
            run_id=run_id,
            max_attempts=max_attempts,
            job_id=job_id,
        )
        return self.get(run_id)

    def resume(self, run_id: str, max_attempts: int = 5) -> Run:
        """Continue a failed or cancelled run from its latest checkpoint. Other runs stay unchanged."""
        self.lock(run_id)
        run = self.get(run_id)
        if run.state in (JobState.FAILED, JobState.CANCELLED):
            job, _ = self._jobs.enqueue(
                JobKind.TRAIN,
                payload={"run_id": run_id},
                content_key=f"train:{run_id}",
                run_id=run_id,
                max_attempts=max_attempts,
            )
            self._session.execute(update(Run).where(Run.id == run_id).values(job_id=job.id))
        return self.get(run_id)

    def restore(
        self,
        run_id: str,
        *,
        name: str,
        config: dict[str, Any],
        config_hash: str,
        total_images: int,
        num_images: int,
    ) -> bool:
        """Write a run that was found in the store, with an ended job. False when the catalog has the run already.

        An incomplete run is `failed`, so that a user decides whether to `resume` it. Raises `NameTaken`.
        """
        if self._first(select(Run).where(Run.id == run_id)) is not None:
            return False
        job_id = new_id("job")
        values = {
            "id": run_id,
            "name": name,
            "config": config,
            "config_hash": config_hash,
            "total_images": total_images,
            "num_images": num_images,
            "job_id": job_id,
        }
        if not self._add(Run, values, ["name"]):
            raise NameTaken(name)
        complete = num_images >= total_images
        ended = {
            "id": job_id,
            "kind": JobKind.TRAIN,
            "state": JobState.SUCCEEDED if complete else JobState.FAILED,
            "priority": PRIORITY[JobKind.TRAIN],
            "run_id": run_id,
            "payload": {"run_id": run_id},
            "content_key": f"train:{run_id}",
            "max_attempts": 0,
            "progress": num_images / total_images,
            "error": None if complete else f"Found in the store at {num_images} of {total_images} images; resume it.",
            "finished_at": database_now(),
        }
        self._add(Job, ended, ["id"])
        return True

    def get(self, id_or_name: str) -> Run:
        """The run with this id, else with this name. Raises `NotFound`."""
        by_id_first = case((Run.id == id_or_name, 0), else_=1)
        query = select(Run).where(or_(Run.id == id_or_name, Run.name == id_or_name)).order_by(by_id_first)
        return self._one(query, "run", id_or_name)

    def all(self) -> Rows[Run]:
        """Every run, oldest first."""
        return self._all(select(Run).order_by(Run.seq))

    def list(self, *, state: JobState | None = None, after: str | None = None, limit: int = 50) -> Page[Run]:
        """A page of runs, newest first."""
        query = select(Run)
        if state is not None:
            query = query.where(Run.job_id.in_(select(Job.id).where(Job.state == state)))
        return self._newest_first(query, Run.seq, after, limit)

    def set_progress(self, run_id: str, num_images: int) -> None:
        """Set the number of images seen. A resume may lower it. Raises `NotFound`."""
        statement = update(Run).where(Run.id == run_id).values(num_images=num_images).returning(Run.id)
        if self._session.scalars(statement).one_or_none() is None:
            raise NotFound("run", run_id)

    def lock(self, run_id: str) -> None:
        """Lock the run until the transaction ends: one transaction at a time decides which results need a job."""
        query = select(Run.id).where(Run.id == run_id).with_for_update(key_share=True)
        if self._session.scalars(query).one_or_none() is None:
            raise NotFound("run", run_id)
