"""The weights that a task draws from, as its row names them."""

from __future__ import annotations

from phema.services.phema_worker.evaluation.tasks import Weights
from phema.shared.catalog import JobState, Reconstruction

_ENDED = {JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}


class ImpossibleJob(ValueError):
    """No attempt at the job can succeed. The message is one sentence."""


def finished_weights(row: Reconstruction, role: str) -> Weights:
    """The stored weights of a reconstruction. `role` names it in errors. Raises ImpossibleJob if it has none."""
    if row.key is None or row.sha256 is None:
        if row.job is not None and row.job.state in (JobState.FAILED, JobState.CANCELLED):
            reason = f": {row.job.error}" if row.job.error else ""
            raise ImpossibleJob(
                f"{role} {row.id} has no weights, because its job {row.job.id} {_ENDED[row.job.state]}{reason}"
            )
        raise ImpossibleJob(f"{role} {row.id} has no weights yet; evaluate it when it has succeeded")
    return Weights(row.id, row.key, row.sha256)
