"""How an attempt ends: decided from what is registered, whatever the workers said.

The driver writes the end, but for errors that no restart mends: Ray Train would start the workers again after any
error, so the worker that meets a final one ends the job itself. The fence lets one of them do so, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from phema.services.trainer.control.attempt import Attempt
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.services.trainer.training.precision import UnsupportedPrecision
from phema.services.trainer.training.tracked_averages import profile_of, tracked_profiles
from phema.shared.catalog import Catalog, JobState, LeaseLost, Transaction
from phema.shared.datasets import DatasetError

FINAL_ERRORS = (DatasetError, UnsupportedPrecision, CheckpointError)
"""What another try would meet again."""


@contextmanager
def final_errors_end_the_job(attempt: Attempt, catalog: Catalog) -> Iterator[None]:
    """A final error from the block ends the job with its sentence, unless that has an end; it is raised on.

    Dying before the end is written is safe: the restarted worker meets the error again. Dying after it is, too: a
    restarted worker finds that its attempt no longer runs.
    """
    try:
        yield
    except FINAL_ERRORS as error:
        with suppress(LeaseLost), attempt.writing(catalog) as (tx, _):
            tx.leases.fail(attempt.job_id, attempt.fence, str(error), retry=False)
        raise


def end_once(tx: Transaction, attempt: Attempt, write: Callable[[Transaction], JobState]) -> JobState:
    """The state that `write` gives the job, or the one in which a worker has ended it. Raises LeaseLost."""
    try:
        return write(tx)
    except LeaseLost:
        state = tx.leases.end_of(attempt.job_id, attempt.fence)
        if state is None:
            raise
        return state


def is_complete(tx: Transaction, attempt: Attempt) -> bool:
    """Whether every average of the run has its snapshot at the end of training."""
    config = attempt.config
    final = {profile_of(s) for s in tx.snapshots.list(attempt.run_id) if s.num_images == config.total_images}
    return final >= set(tracked_profiles(config))


def conclude(tx: Transaction, attempt: Attempt) -> JobState:
    """Write the terminal row after the loop has returned. Raises LeaseLost."""
    job = tx.leases.assert_fence(attempt.job_id, attempt.fence)
    if is_complete(tx, attempt):
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
