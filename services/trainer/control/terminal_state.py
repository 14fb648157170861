"""How an attempt ends its job: from the rows that are registered, not from what the workers return.

The driver writes the terminal state, with one exception. Ray Train would restart the workers after any error, so a
worker that meets a permanent error ends the job itself. The fence ensures that only one of them writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.services.trainer.training.precision import UnsupportedPrecision
from phema.services.trainer.training.tracked_averages import profile_of, tracked_profiles
from phema.shared.catalog import Catalog, JobState, LeaseLost, Transaction
from phema.shared.datasets import DatasetError

PERMANENT_ERRORS = (DatasetError, UnsupportedPrecision, CheckpointError)
"""Errors that a retry would meet again."""


@contextmanager
def permanent_errors_fail_the_job(attempt: TrainingAttempt, catalog: Catalog) -> Iterator[None]:
    """A permanent error in the block fails the job with the error's sentence, unless the job has ended; then re-raises.

    A worker may be killed at any time. Killed before the write, the restarted worker meets the error again. Killed
    after the write, the restarted worker finds that its attempt no longer runs.
    """
    try:
        yield
    except PERMANENT_ERRORS as error:
        with suppress(LeaseLost), attempt.fenced_transaction(catalog) as (tx, _):
            tx.leases.fail(attempt.job_id, attempt.fence, str(error), retry=False)
        raise


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

    If all final snapshots are registered, the job has succeeded. Otherwise a requested cancel takes effect. Without
    such a request this attempt has failed, and the job is retried if attempts are left.
    """
    job = tx.leases.assert_fence(attempt.job_id, attempt.fence)
    if has_all_final_snapshots(tx, attempt):
        tx.runs.set_progress(attempt.run_id, attempt.config.total_images)
        result = {"num_images": attempt.config.total_images, "snapshots": len(tx.snapshots.list(attempt.run_id))}
        tx.leases.succeed(attempt.job_id, attempt.fence, result)
        return JobState.SUCCEEDED
    if job.cancel_requested:
        done = tx.runs.get(attempt.run_id).num_images
        tx.leases.report(attempt.job_id, attempt.fence, f"stopped at {done} of {attempt.config.total_images} images")
        tx.leases.cancelled(attempt.job_id, attempt.fence)
        return JobState.CANCELLED
    error = "The training workers ended before the run's last snapshot was registered."
    return tx.leases.fail(attempt.job_id, attempt.fence, error, retry=True)
