"""The thread that claims the jobs of studies and advances each by one step."""

from __future__ import annotations

from collections.abc import Callable

from phema.services.phema_worker.coordination import follow, search, sweep
from phema.services.phema_worker.coordination.steps import Finished, Impossible, Step, Wait
from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.services.phema_worker.leased_work import End, LeasedWork
from phema.shared.catalog import Job, JobKind, JobState, NotFound, Transaction
from phema.shared.service_runtime.lease_holder import LeaseHolder

STEPS: dict[JobKind, Callable[[StudyWork], Step]] = {
    JobKind.SWEEP: sweep.advance,
    JobKind.SEARCH: search.advance,
    JobKind.FOLLOW: follow.advance,
}
"""The step of each kind of study."""
_SMALLEST_WINDOW = 4
"""Points under way at the same time, at least; as many for each actor of all workers."""
_PAUSE_POLLS = 10
"""A study that waits for something else than jobs looks again after so many `poll_seconds`."""


class Coordinator(LeasedWork):
    """Claims jobs of the kinds in `STEPS`, and advances the study of each by one step."""

    def _perform(self, job: Job, lease: LeaseHolder) -> End:
        try:
            with self._catalog.transaction(read_only=True) as tx:
                study = tx.studies.get(job.payload["study_id"])
                window = self._window(tx)
            work = StudyWork(
                self._catalog,
                job,
                study,
                window=window,
                max_attempts=self._settings.max_attempts,
                pause_seconds=_PAUSE_POLLS * self._settings.poll_seconds,
                stopped=lambda: lease.lost or lease.stop_requested or self._stopping.is_set(),
            )
            step = STEPS[job.kind](work)
        except NotFound as error:
            sentence = str(error)
            return lambda tx: tx.leases.fail(job.id, job.fence, sentence, retry=False)
        return lambda tx: end_step(tx, job, study.id, step)

    def _window(self, tx: Transaction) -> int:
        """Other workers are taken to have as many actors as this one."""
        live = tx.scrape_targets.live(self._settings.target_silence_seconds)
        workers = sum(target.kind == self._meters.source for target in live)
        return _SMALLEST_WINDOW * self._settings.worker_actors * max(workers, 1)


def end_step(tx: Transaction, job: Job, study_id: str, step: Step) -> JobState:
    """Write how a step ended: the job waits, succeeds or fails. Raises LeaseLost."""
    if isinstance(step, Wait):
        state = tx.leases.wait_for(
            job.id,
            job.fence,
            step.needs,
            message=step.message,
            progress=step.progress,
            allowed_unfinished=step.allowed_unfinished,
        ).state
        if step.pause_seconds:
            tx.leases.postpone(job.id, step.message, step.pause_seconds)
        return state
    if isinstance(step, Impossible):
        return tx.leases.fail(job.id, job.fence, step.error, retry=False)
    assert isinstance(step, Finished)
    tx.leases.assert_fence(job.id, job.fence)
    if not step.still_holds(tx):
        return tx.leases.wait_for(job.id, job.fence, (), message=job.message or "").state
    tx.studies.complete(study_id, step.result)
    return tx.leases.succeed(job.id, job.fence, {**job.payload, **step.job_result}).state
