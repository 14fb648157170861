"""One attempt at a run: what to train, and the fence without which nothing may be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from phema.shared.catalog import Catalog, Job, JobState, LeaseLost, Run, Transaction
from phema.shared.recipes.run_config import RunConfig


@dataclass(frozen=True)
class Attempt:
    """Attempt `fence` at job `job_id`, which trains run `run_id`."""

    job_id: str
    fence: int
    run_id: str
    name: str
    config: RunConfig
    document: dict[str, Any]
    """The configuration as it was recorded when the run was created: a later version of phema may add fields."""
    config_hash: str
    """Of `document`, recorded with it."""
    request_id: str | None = None
    """Request that asked for the job, where one did."""

    @property
    def ids(self) -> dict[str, object]:
        """What every log line about the attempt carries."""
        return {
            "run_id": self.run_id,
            "job_id": self.job_id,
            "attempt": self.fence,
            "request_id": self.request_id,
        }

    @contextmanager
    def writing(self, catalog: Catalog) -> Iterator[tuple[Transaction, Job]]:
        """A transaction that holds the job's row. Raises LeaseLost when this attempt no longer has the job."""
        with catalog.transaction() as tx:
            yield tx, tx.leases.assert_fence(self.job_id, self.fence)


def attempt_at(run: Run, job: Job) -> Attempt:
    """The attempt that holds `job`. Raises pydantic's ValidationError when the configuration is no longer valid."""
    config = RunConfig.model_validate(run.config)
    return Attempt(job.id, job.fence, run.id, run.name, config, run.config, run.config_hash, job.request_id)


def load_attempt(catalog: Catalog, job_id: str, fence: int) -> Attempt:
    """Attempt `fence` at `job_id`. Raises LeaseLost unless that is running, ValidationError as above."""
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
        if job.fence != fence or job.state is not JobState.RUNNING:
            raise LeaseLost(job_id, fence)
        return attempt_at(tx.runs.get(job.payload["run_id"]), job)
