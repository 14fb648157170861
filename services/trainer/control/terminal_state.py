"""How an attempt ends its job: from the rows that are registered, not from what the workers return.

The driver writes the terminal state, with one exception. Ray Train would restart the workers after any error, so a
worker that meets a permanent error ends the job itself. The fence ensures that only one of them writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.failure_causes import PERMANENT, failure_of, write_failure
from phema.services.trainer.training.tracked_averages import profile_of, tracked_profiles
from phema.shared.catalog import Catalog, FailureCause, JobState, LeaseLost, Transaction
from phema.shared.service_runtime.catalog_outages import outlast


@contextmanager
def permanent_errors_fail_the_job(attempt: TrainingAttempt, catalog: Catalog) -> Iterator[None]:
    """A permanent error in the block fails the job with the error's sentence, unless the job has ended; then re-raises.

    A worker may be killed at any time. Killed before the write, the restarted worker meets the error again. Killed
    after the write, the restarted worker finds that its attempt no longer runs.
    """
    try:
        yield
    except tuple(PERMANENT) as error:
        with suppress(LeaseLost), attempt.fenced_transaction(catalog) as (tx, _):
            write_failure(tx, attempt, failure_of(error))
        raise


def request_release(attempt: TrainingAttempt, catalog: Catalog, limit_s: float) -> None:
    """Let all processes of the attempt know that it hands its job back. Raises LeaseLost, CatalogUnreachable."""

    def write() -> None:
        with catalog.transaction() as tx:
            tx.leases.request_release(attempt.job_id, attempt.fence)

    outlast(write, "the request to hand the run back", limit_s=limit_s)


def write_unless_ended(tx: Transaction, attempt: TrainingAttempt, write: Callable[[Transaction], JobState]) -> JobState:
    """The state that `write` gives the job, or the one a worker has already written. Raises LeaseLost."""
    try:
        return write(tx)
    except LeaseLost:
        state = tx.leases.end_of(attempt.job_id, attempt.fence)
        if state is None:
            raise
        return state


def has_all_final_snapshots(tx: Transaction, attempt: TrainingAttempt) -> bool:
    """Whether every average of the run has a registered snapshot at `total_images`."""
    config = attempt.config
    final = {profile_of(s) for s in tx.snapshots.list(attempt.run_id) if s.num_images == config.total_images}
    return final >= set(tracked_profiles(config))


def finish_job(tx: Transaction, attempt: TrainingAttempt) -> JobState:
    """Write and return the job's next state after the training loop has returned. Raises LeaseLost.

    If all final snapshots are registered, the job has succeeded. Otherwise a requested cancel or pause takes effect;
    after a pause that was withdrawn too late, the job is queued again. Then a requested release takes effect: the job
    is queued again, and the attempt does not count. Without such a request this attempt has failed, and the job is
    retried if attempts are left.
    """
    job = tx.leases.assert_fence(attempt.job_id, attempt.fence)
    if has_all_final_snapshots(tx, attempt):
        tx.runs.set_progress(attempt.run_id, attempt.config.total_images)
        result = {"num_images": attempt.config.total_images, "snapshots": len(tx.snapshots.list(attempt.run_id))}
        tx.leases.succeed(attempt.job_id, attempt.fence, result)
        return JobState.SUCCEEDED
    if job.cancel_requested or job.pause_requested or job.pause_withdrawn:
        done = tx.runs.get(attempt.run_id).num_images
        tx.leases.report(attempt.job_id, attempt.fence, f"stopped at {done} of {attempt.config.total_images} images")
        return tx.leases.stopped(attempt.job_id, attempt.fence).state
    if job.release_requested:
        done = tx.runs.get(attempt.run_id).num_images
        message = f"stopped at {done} of {attempt.config.total_images} images, because its process or machine ends"
        return tx.leases.release(attempt.job_id, attempt.fence, message).state
    error = "The training workers ended before the run's last snapshot was registered."
    return tx.leases.fail(attempt.job_id, attempt.fence, error, retry=True, cause=FailureCause.LOST_NODE)
