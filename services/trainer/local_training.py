"""Training in this process with one worker and without Ray, for tests, benchmarks and debugging."""

from __future__ import annotations

import torch

from phema.services.trainer.attempt import TrainingAttempt, attempt_from, load_attempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.snapshot_writer import OUTAGE_SECONDS
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, Job, JobKind, Run
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots import ObjectStore
from phema.shared.telemetry import Meters

LEASE_SECONDS = 3600.0
"""Long, because no heartbeat extends the lease."""


def train_locally(
    config: RunConfig, catalog: Catalog, store: ObjectStore, job: Job | None = None, *, name: str = "local"
) -> Run:
    """Train `config` to its end on one thread and return the finished run.

    Without a claimed `job`, it creates and claims a run called `name`. The result equals that of one Ray worker with
    one CPU, bit for bit. Torch's random number generators and number of threads are restored afterwards.
    """
    attempt = claim_locally(config, catalog, name=name) if job is None else load_attempt(catalog, job.id, job.fence)
    train_attempt(attempt, catalog, store)
    with catalog.transaction() as tx:
        finish_job(tx, attempt)
    with catalog.transaction() as tx:
        return tx.runs.get(attempt.run_id)


def claim_locally(
    config: RunConfig, catalog: Catalog, *, name: str = "local", max_attempts: int = 5
) -> TrainingAttempt:
    """Create a run and claim its job. Raises RuntimeError if another training job is queued in this catalog."""
    with catalog.transaction() as tx:
        run = tx.runs.create(
            name, config.model_dump(mode="json"), config.config_hash, config.total_images, max_attempts
        )
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=LEASE_SECONDS)
        if job is None or job.id != run.job_id:
            raise RuntimeError("another training job is queued in this catalog and would be claimed first")
    return attempt_from(run, job)


def train_attempt(
    attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore, *, outage_s: float = OUTAGE_SECONDS
) -> None:
    """Run the training loop as a worker does. The caller must write the job's terminal state."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        try:
            train(
                attempt,
                catalog=catalog,
                store=store,
                group=WorkerGroup(),
                meters=Meters("training"),
                outage_s=outage_s,
            )
        finally:
            torch.set_num_threads(threads)
