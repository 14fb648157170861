"""One attempt at training a run, and the fencing token that every one of its writes must carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from phema.shared.catalog import Catalog, Job, JobState, LeaseLost, Run, Transaction
from phema.shared.recipes.run_config import RunConfig


@dataclass(frozen=True)
class TrainingAttempt:
    """Attempt number `fence` at job `job_id`, which trains run `run_id`."""

    job_id: str
    fence: int
    run_id: str
    name: str
    config: RunConfig
    document: dict[str, Any]
    """The configuration as recorded when the run was created; a later version of phema may add fields to `config`."""
    config_hash: str
    """Hash of `document`, recorded with it."""
    request_id: str | None = None
    """Id of the request that created the job; None if no request did."""
    earlier_lengths: tuple[int, ...] = ()
    """Values of `total_images` before the run was extended."""
    parent: dict[str, Any] | None = None
    """What a fork began from (`Run.parent`); None for a run that began with random weights."""

    @property
    def ids(self) -> dict[str, object]:
        """The log fields of every line about this attempt."""
        return {
            "run_id": self.run_id,
            "job_id": self.job_id,
            "attempt": self.fence,
            "request_id": self.request_id,
        }

    @contextmanager
    def fenced_transaction(self, catalog: Catalog) -> Iterator[tuple[Transaction, Job]]:
        """A transaction that holds the job's row. Raises LeaseLost if this attempt no longer holds the job."""
        with catalog.transaction() as tx:
            yield tx, tx.leases.assert_fence(self.job_id, self.fence)


def attempt_from(run: Run, job: Job, earlier_lengths: Iterable[int] = ()) -> TrainingAttempt:
    """The attempt that holds `job` now. Raises pydantic's ValidationError if the run's configuration is not valid."""
    return TrainingAttempt(
        job_id=job.id,
        fence=job.fence,
        run_id=run.id,
        name=run.name,
        config=RunConfig.model_validate(run.config),
        document=run.config,
        config_hash=run.config_hash,
        request_id=job.request_id,
        earlier_lengths=tuple(earlier_lengths),
        parent=run.parent,
    )


def load_attempt(catalog: Catalog, job_id: str, fence: int) -> TrainingAttempt:
    """Read attempt `fence` at `job_id` from the catalog.

    Raises LeaseLost unless that attempt is running, and pydantic's ValidationError if the run's configuration is not
    valid.
    """
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
        if job.fence != fence or job.state is not JobState.RUNNING:
            raise LeaseLost(job_id, fence)
        run = tx.runs.get(job.payload["run_id"])
        return attempt_from(run, job, tx.run_events.earlier_lengths(run.id))
