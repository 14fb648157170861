"""How an attempt ends: decided from what is registered, whatever the workers said."""

from __future__ import annotations

from services.trainer.attempt import Attempt
from services.trainer.profiles import profile_of, tracked_profiles
from shared.catalog import JobState, Transaction


def is_complete(tx: Transaction, attempt: Attempt) -> bool:
    """Whether every average of the run has its snapshot at the end of training."""
    config = attempt.config
    final = {profile_of(s) for s in tx.snapshots.list(attempt.run_id) if s.num_images == config.total_images}
    return final >= set(tracked_profiles(config))


def conclude(tx: Transaction, attempt: Attempt) -> JobState:
    """Write the terminal row after the loop has returned. Raises LeaseLost."""
    job = tx.jobs.assert_fence(attempt.job_id, attempt.fence)
    if is_complete(tx, attempt):
        tx.runs.set_progress(attempt.run_id, attempt.config.total_images)
        result = {"num_images": attempt.config.total_images, "snapshots": len(tx.snapshots.list(attempt.run_id))}
        tx.jobs.succeed(attempt.job_id, attempt.fence, result)
        return JobState.SUCCEEDED
    if job.cancel_requested:
        tx.jobs.cancelled(attempt.job_id, attempt.fence)
        return JobState.CANCELLED
    error = "The training workers ended before the run's last snapshot was registered."
    return tx.jobs.fail(attempt.job_id, attempt.fence, error, retry=True)
