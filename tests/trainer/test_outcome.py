"""Errors that no restart mends end the job from within a worker; the others are Ray Train's and the driver's."""

from __future__ import annotations

import queue

import pytest

from phema.services.trainer.control.attempt import load_attempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.services.trainer.control.outcome import conclude, end_once, final_errors_end_the_job
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.services.trainer.training.local_training import claim_locally
from phema.services.trainer.training.precision import UnsupportedPrecision
from phema.shared.catalog import Catalog, JobKind, JobState, LeaseLost
from phema.shared.datasets import DatasetError
from tests.trainer.support import get_run, tiny_config


@pytest.mark.parametrize("kind", [DatasetError, UnsupportedPrecision, CheckpointError])
def test_a_final_error_ends_the_job_once(kind: type[Exception], local_catalog: Catalog) -> None:
    """Though attempts are left; the other workers' errors, the driver's end and a restarted worker change nothing."""
    attempt = claim_locally(tiny_config(), local_catalog, max_attempts=5)
    with hold_lease(attempt, local_catalog, interval_s=60, lease_s=180) as lease:
        for sentence in ("what is wrong", "what another worker says"):
            with pytest.raises(kind, match=sentence), final_errors_end_the_job(attempt, local_catalog):
                raise kind(sentence)
        job = get_run(local_catalog, attempt.run_id).job
        assert (job.state, job.error) == (JobState.FAILED, "what is wrong")
        with pytest.raises(LeaseLost):
            load_attempt(local_catalog, attempt.job_id, attempt.fence)
        for write in (
            lambda tx: conclude(tx, attempt),
            lambda tx: tx.leases.fail(attempt.job_id, attempt.fence, "gloo", retry=True),
        ):
            assert lease.end(lambda tx, write=write: end_once(tx, attempt, write)) is JobState.FAILED
    assert get_run(local_catalog, attempt.run_id).job.error == "what is wrong"


def test_another_error_leaves_the_job_to_the_driver(local_catalog: Catalog) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with pytest.raises(OSError, match="disk"), final_errors_end_the_job(attempt, local_catalog):
        raise OSError("disk")
    assert get_run(local_catalog, attempt.run_id).job.state is JobState.RUNNING


def test_a_stale_attempt_ends_nothing(local_catalog: Catalog) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        assert tx.leases.claim([JobKind.TRAIN], owner="another", lease_seconds=60) is not None
    with pytest.raises(DatasetError), final_errors_end_the_job(attempt, local_catalog):
        raise DatasetError("what is wrong")
    with pytest.raises(LeaseLost), local_catalog.transaction() as tx:
        end_once(tx, attempt, lambda tx: conclude(tx, attempt))
    assert get_run(local_catalog, attempt.run_id).job.state is JobState.RUNNING


def test_the_driver_of_a_job_that_a_worker_ended_leaves_at_once(local_catalog: Catalog) -> None:
    """And with it the workers that have not failed: they may wait for ever for the one that has."""
    attempt = claim_locally(tiny_config(), local_catalog)
    ended: queue.Queue[str] = queue.Queue()
    lost: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, local_catalog, interval_s=0.02, lease_s=60, on_lost=lost.put, on_ended=ended.put):
        with pytest.raises(DatasetError), final_errors_end_the_job(attempt, local_catalog):
            raise DatasetError("what is wrong")
        assert ended.get(timeout=30) == "a worker has ended the job, which is failed"
    assert lost.empty()
