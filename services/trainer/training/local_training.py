"""Training in this process, without Ray: for tests, benchmarks and debugging. One worker."""

from __future__ import annotations

import torch

from phema.services.trainer.control.attempt import Attempt, attempt_at, load_attempt
from phema.services.trainer.control.outcome import conclude
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.worker_group import Group
from phema.shared.catalog import Catalog, Job, JobKind, Run
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots import ObjectStore
from phema.shared.telemetry import Meters

LEASE_SECONDS = 3600.0


def train_locally(
    config: RunConfig, catalog: Catalog, store: ObjectStore, job: Job | None = None, *, name: str = "local"
) -> Run:
    """Train `config` to its end with the loop that Ray workers run, on one thread, and return the finished run.

    Without a claimed `job`, a run called `name` is created and claimed. The result is what a Ray worker with one CPU
    gives, bit for bit. Torch's random numbers and number of threads are as before afterwards.
    """
    attempt = claim_locally(config, catalog, name=name) if job is None else load_attempt(catalog, job.id, job.fence)
    train_attempt(attempt, catalog, store)
    with catalog.transaction() as tx:
        conclude(tx, attempt)
    with catalog.transaction() as tx:
        return tx.runs.get(attempt.run_id)


def claim_locally(config: RunConfig, catalog: Catalog, *, name: str = "local", max_attempts: int = 5) -> Attempt:
    """A new run and the attempt that holds it. Raises RuntimeError when other training jobs wait in this catalog."""
    with catalog.transaction() as tx:
        run = tx.runs.create(
            name, config.model_dump(mode="json"), config.config_hash, config.total_images, max_attempts
        )
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=LEASE_SECONDS)
        if job is None or job.id != run.job_id:
            raise RuntimeError("another training job waits in this catalog and would be claimed first")
    return attempt_at(run, job)


def train_attempt(attempt: Attempt, catalog: Catalog, store: ObjectStore) -> None:
    """The loop alone, as a worker runs it: the job's row is left for the caller to end."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        try:
            train(attempt, catalog=catalog, store=store, group=Group(), meters=Meters("training"))
        finally:
            torch.set_num_threads(threads)
