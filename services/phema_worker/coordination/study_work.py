"""What a step of a study works with: the claimed job, the study, and short transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from phema.shared.catalog import Catalog, Job, Study, Transaction
from phema.shared.submissions.job_options import JobOptions


@dataclass(frozen=True)
class StudyWork:
    catalog: Catalog
    job: Job
    study: Study
    """As it was when the job was claimed."""
    window: int
    """Points that are evaluated at the same time."""
    max_attempts: int
    pause_seconds: float
    """Until a study that waits for something else than jobs looks again."""
    stopped: Callable[[], bool] = lambda: False
    """Whether the step should end at the next opportunity: the process stops, or the job is cancelled or lost."""

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction of the holder of the job. Raises LeaseLost when another attempt has the job."""
        with self.catalog.transaction(request_id=self.job.request_id) as tx:
            tx.leases.assert_fence(self.job.id, self.job.fence)
            yield tx

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.catalog.transaction(read_only=True) as tx:
            yield tx

    @property
    def options(self) -> JobOptions:
        """For the jobs of points: after those of users, and cancelled with the study."""
        return JobOptions(self.max_attempts, parent_id=self.job.id, priority=self.job.priority)

    @property
    def weights_options(self) -> JobOptions:
        """For reconstructions, which go before the evaluations that are queued already: others need them."""
        return JobOptions(self.max_attempts, parent_id=self.job.id, priority=self.job.priority - 1)
