"""A worker ends the job after a permanent error; Ray Train and the driver handle all other errors."""

from __future__ import annotations

import queue

import pytest

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.services.trainer.control.terminal_state import finish_job, permanent_errors_fail_the_job, write_unless_ended
from phema.services.trainer.local_training import claim_locally
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.services.trainer.training.precision import UnsupportedPrecision
from phema.shared.catalog import Catalog, JobKind, JobState, LeaseLost
from phema.shared.datasets import DatasetError
from tests.trainer.support import get_run, tiny_config


@pytest.mark.parametrize("kind", [DatasetError, UnsupportedPrecision, CheckpointError])
def test_a_permanent_error_ends_the_job_once(kind: type[Exception], local_catalog: Catalog) -> None:
    """Although attempts are left. Errors of other workers, the driver and a restarted worker do not change that."""
    attempt = claim_locally(tiny_config(), local_catalog, max_attempts=5)
    with hold_lease(attempt, local_catalog, interval_s=60, lease_s=180) as lease:
        for sentence in ("what is wrong", "what another worker says"):
            with pytest.raises(kind, match=sentence), permanent_errors_fail_the_job(attempt, local_catalog):
                raise kind(sentence)
        job = get_run(local_catalog, attempt.run_id).job
        assert (job.state, job.error) == (JobState.FAILED, "what is wrong")
        with pytest.raises(LeaseLost):
            load_attempt(local_catalog, attempt.job_id, attempt.fence)
        for write in (
            lambda tx: finish_job(tx, attempt),
            lambda tx: tx.leases.fail(attempt.job_id, attempt.fence, "gloo", retry=True),
        ):
            assert lease.end(lambda tx, write=write: write_unless_ended(tx, attempt, write)) is JobState.FAILED
    assert get_run(local_catalog, attempt.run_id).job.error == "what is wrong"


def test_another_error_leaves_the_job_to_the_driver(local_catalog: Catalog) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with pytest.raises(OSError, match="disk"), permanent_errors_fail_the_job(attempt, local_catalog):
        raise OSError("disk")
    assert get_run(local_catalog, attempt.run_id).job.state is JobState.RUNNING


def test_a_stale_attempt_ends_nothing(local_catalog: Catalog) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        assert tx.leases.claim([JobKind.TRAIN], owner="another", lease_seconds=60) is not None
    with pytest.raises(DatasetError), permanent_errors_fail_the_job(attempt, local_catalog):
        raise DatasetError("what is wrong")
    with pytest.raises(LeaseLost), local_catalog.transaction() as tx:
        write_unless_ended(tx, attempt, lambda tx: finish_job(tx, attempt))
    assert get_run(local_catalog, attempt.run_id).job.state is JobState.RUNNING


def test_the_driver_ends_at_once_when_a_worker_has_ended_the_job(local_catalog: Catalog) -> None:
    """The workers that have not failed end with the driver: they may wait for ever for the failed one."""
    attempt = claim_locally(tiny_config(), local_catalog)
    ended: queue.Queue[str] = queue.Queue()
    lost: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, local_catalog, interval_s=0.02, lease_s=60, on_lost=lost.put, on_ended=ended.put):
        with pytest.raises(DatasetError), permanent_errors_fail_the_job(attempt, local_catalog):
            raise DatasetError("what is wrong")
        assert ended.get(timeout=30) == "a worker has ended the job, which is failed"
    assert lost.empty()
