"""One attempt at a run: what to train, and the fence without which nothing may be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shared.catalog import Catalog, Job, LeaseLost, Transaction
from shared.recipes.config import RunConfig


@dataclass(frozen=True)
class Attempt:
    """Attempt `fence` at job `job_id`, which trains run `run_id` with `config`."""

    job_id: str
    fence: int
    run_id: str
    config: RunConfig

    @contextmanager
    def writing(self, catalog: Catalog) -> Iterator[tuple[Transaction, Job]]:
        """A transaction that holds the job's row. Raises LeaseLost when this attempt no longer has the job."""
        with catalog.transaction() as tx:
            yield tx, tx.jobs.assert_fence(self.job_id, self.fence)


def load_attempt(catalog: Catalog, job_id: str, fence: int) -> Attempt:
    """The attempt that holds `job_id`.

    Raises LeaseLost when it does not, pydantic's ValidationError when the run's configuration is not one of this
    version's.
    """
    with catalog.transaction() as tx:
        job = tx.jobs.get(job_id)
        if job.fence != fence:
            raise LeaseLost(job_id, fence)
        run = tx.runs.get(job.payload["run_id"])
    return Attempt(job_id, fence, run.id, RunConfig.model_validate(run.config))
