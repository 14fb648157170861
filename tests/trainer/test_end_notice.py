"""SIGTERM: the training stops with a checkpoint and hands its job back; nothing is lost and nothing counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phema.services.trainer.control.driver import drive
from phema.services.trainer.local_training import claim_locally, train_locally
from phema.services.trainer.training.cancellation import Cancellation
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import AttemptOutcome, Catalog, JobKind, JobState
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import checkpoint_times, get_run, snapshots_of, tiny_config, wait_until

CONFIG = tiny_config(total_images=3200, status_every=16, snapshot_every=800, checkpoint_every=1600)


def test_a_driver_that_gets_sigterm_stores_a_checkpoint_and_hands_the_job_back(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    command = [sys.executable, "-m", "phema.services.trainer.control.driver", "--device", "cpu"]
    command += ["--job", attempt.job_id, "--fence", str(attempt.fence)]
    environment = {**os.environ, "PHEMA_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_until(lambda: get_run(local_catalog, attempt.run_id).num_images, "the first step")
            driver.send_signal(signal.SIGTERM)
            _, log = driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert driver.returncode == 0, log
    run = get_run(local_catalog, attempt.run_id)
    assert 0 < run.num_images < 3200
    assert checkpoint_times(local_catalog, run.id)[-1] == run.num_images
    assert (run.job.state, run.job.attempts, run.job.error) == (JobState.QUEUED, 0, None)
    with local_catalog.transaction() as tx:
        (ended,) = tx.jobs.attempts(attempt.job_id)
        assert (ended.outcome, ended.error) == (AttemptOutcome.RELEASED, None)
        second = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=600)
    assert second is not None
    assert not second.release_requested
    assert drive(local_catalog, Settings(state_dir=tmp_path), second.id, second.fence, device="cpu") == 0
    assert get_run(local_catalog, run.id).job.state is JobState.SUCCEEDED
    reference = train_locally(CONFIG, local_catalog, local_store, name="reference")
    found = snapshots_of(local_catalog, local_store, run.id)
    assert found == snapshots_of(local_catalog, local_store, reference.id)


def test_a_notice_before_the_training_begins_hands_the_job_back_at_once(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    notice = EndNotice()
    notice.give()
    settings = Settings(state_dir=tmp_path)
    assert drive(local_catalog, settings, attempt.job_id, attempt.fence, device="cpu", notice=notice) == 0
    run = get_run(local_catalog, attempt.run_id)
    assert (run.job.state, run.job.attempts, run.num_images) == (JobState.QUEUED, 0, 0)


def test_a_request_in_the_catalog_stops_the_workers(local_catalog: Catalog) -> None:
    attempt = claim_locally(CONFIG, local_catalog)
    with local_catalog.transaction() as tx:
        tx.leases.request_release(attempt.job_id, attempt.fence)
    with Cancellation(attempt, local_catalog, WorkerGroup()) as cancellation:
        assert cancellation.stop_now()
        assert not cancellation.stopped_by_notice
    message = get_run(local_catalog, attempt.run_id).job.message
    assert message is not None
    assert message.startswith("handing the run back for")


@pytest.mark.parametrize("preempted", [0, 1])
def test_the_notice_of_one_worker_stops_all_after_the_same_step(tmp_path: Path, preempted: int) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    rendezvous = (tmp_path / "rendezvous").as_uri()
    workers = [context.Process(target=_stop_together, args=(rank, rendezvous, preempted, queue)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    steps = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert steps[0] == steps[1]
    assert steps[0] >= 3


def _stop_together(rank: int, rendezvous: str, preempted: int, queue: object) -> None:
    """Count steps until the workers stop; worker `preempted` is told after its third look."""
    import torch.distributed as dist

    from tests.trainer.support import loose_attempt, new_catalog

    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    looks = 0

    def ask() -> bool:
        nonlocal looks
        looks += 1
        return rank == preempted and looks == 3

    catalog = new_catalog(Path(rendezvous.removeprefix("file://")).parent)
    cancellation = Cancellation(loose_attempt(), catalog, WorkerGroup(rank, 2), EndNotice(ask))
    steps = 1
    while not cancellation.stop_now():
        steps += 1
    assert cancellation.stopped_by_notice
    queue.put((rank, steps))  # type: ignore[attr-defined]
    dist.destroy_process_group()
