"""What a user does to a run of phema's own trainer: pause it, resume it, give it a longer training.

Every method locks the run's job and then the run, in the order of the trainer, whose writes hold the job and then
change the run. So a run neither starts nor ends while its user changes it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from phema.shared.catalog.errors import WrongState
from phema.shared.catalog.models import PAUSE_WITHDRAWN, Checkpoint, EventKind, Job, JobKind, JobState, Run
from phema.shared.catalog.repositories.jobs import JobRepository
from phema.shared.catalog.repositories.repository import FRESH, Repository
from phema.shared.catalog.repositories.run_events import RunEventRepository
from phema.shared.catalog.repositories.runs import RunRepository


class RunControlRepository(Repository):
    """Every method raises `NotFound`. The run's origin must be `trained`."""

    def __init__(self, session: Session, jobs: JobRepository, runs: RunRepository) -> None:
        super().__init__(session)
        self._jobs, self._runs = jobs, runs
        self._events = RunEventRepository(session)

    def pause(self, run_id: str) -> Run:
        """Pause a queued run at once; ask a running one to stop after a checkpoint. A paused run stays unchanged.

        Raises `WrongState` when the run has ended, or stops because it was cancelled.
        """
        job = self.lock(run_id)
        if job.state.terminal or job.cancel_requested:
            what = f"is {job.state}" if job.state.terminal else "is being cancelled"
            raise WrongState(f"run {self._name(run_id)} {what}; only a queued, starting or running run can be paused")
        if job.state is JobState.QUEUED:
            job.state = JobState.PAUSED
            self._session.flush()
            self._events.record_job(job, EventKind.PAUSED)
        elif job.state is JobState.RUNNING and not job.pause_requested:
            job.pause_requested = True
            self._ring()
            self._session.flush()
            self._events.record_job(job, EventKind.PAUSE_REQUESTED)
        return self._runs.get(run_id)

    def resume(self, run_id: str, max_attempts: int = 5) -> Run:
        """Continue a paused, failed or cancelled run from its latest checkpoint. Other runs stay unchanged.

        A paused run keeps its job, an ended one gets a new one. A pause that has not taken effect is withdrawn; the
        attempt may stop all the same, and the run is then queued again.
        """
        job = self.lock(run_id)
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            self._enqueue(self._runs.get(run_id), max_attempts, EventKind.RESUMED)
        elif job.state is JobState.PAUSED:
            job.state = JobState.QUEUED
            job.not_before = 0.0
            job.message = None
            self._ring()
            self._session.flush()
            self._events.record_job(job, EventKind.RESUMED)
        elif job.pause_requested and not job.cancel_requested:
            job.pause_requested = False
            job.payload = {**job.payload, PAUSE_WITHDRAWN: job.fence}
            self._session.flush()
            self._events.record_job(job, EventKind.RESUMED, reason="The pause had not taken effect yet.")
        return self._runs.get(run_id)

    def extend(
        self, run_id: str, *, config: dict[str, Any], config_hash: str, total_images: int, max_attempts: int = 5
    ) -> Run:
        """Give a run a longer training. A succeeded run is queued again, with a new job.

        `config` is the run's configuration with the new `total_images`, `config_hash` its hash. Raises `WrongState`
        when the run is running, because its workers have read the length, and when a succeeded run has no checkpoint at
        its end.
        """
        job = self.lock(run_id)
        if job.state is JobState.RUNNING:
            raise WrongState(f"run {self._name(run_id)} is running; pause it, extend it, then resume it")
        run = self._runs.get(run_id)
        if job.state is JobState.SUCCEEDED and self._latest_checkpoint(run_id) != run.num_images:
            raise WrongState(
                f"run {run.name} has no checkpoint at its end, {run.num_images} images, so it cannot be extended"
            )
        details = {"total_images": [run.total_images, total_images], "config_hash": [run.config_hash, config_hash]}
        self._events.record(run_id, EventKind.EXTENDED, details=details, job_id=job.id)
        values = {"config": config, "config_hash": config_hash, "total_images": total_images}
        self._update(run_id, **values)
        run = self._runs.get(run_id)
        if job.state is JobState.SUCCEEDED:
            self._enqueue(run, max_attempts, EventKind.QUEUED)
        else:
            job.progress = run.num_images / total_images
            self._session.flush()
        return self._runs.get(run_id)

    def lock(self, run_id: str) -> Job:
        """Lock the run and its job until the transaction ends, and return the job."""
        while True:
            job_id = self._runs.get(run_id).job_id
            query = select(Job).where(Job.id == job_id).with_for_update()
            job = self._session.scalars(query, execution_options=FRESH).one()
            # Only those who hold this lock give the run another job. Somebody may have done so just before.
            if self._runs.get(run_id).job_id == job_id:
                self._runs.lock(run_id)
                return job

    def _enqueue(self, run: Run, max_attempts: int, kind: EventKind) -> None:
        # The length is a part of the key, because the job that reached the earlier length has succeeded.
        job, _ = self._jobs.enqueue(
            JobKind.TRAIN,
            payload={"run_id": run.id},
            content_key=f"train:{run.id}:{run.total_images}",
            run_id=run.id,
            max_attempts=max_attempts,
        )
        self._update(run.id, job_id=job.id)
        self._events.record_job(job, kind)

    def _name(self, run_id: str) -> str:
        return self._runs.get(run_id).name

    def _latest_checkpoint(self, run_id: str) -> int | None:
        return self._session.scalar(select(func.max(Checkpoint.num_images)).where(Checkpoint.run_id == run_id))

    def _update(self, run_id: str, **values: Any) -> None:
        statement = update(Run).where(Run.id == run_id).values(**values)
        self._session.execute(statement.execution_options(synchronize_session=False))
