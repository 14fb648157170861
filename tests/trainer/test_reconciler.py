"""Rounds of the reconciler on a real cluster, with attempts that end before they train."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control.attempt_logs import AttemptLogs
from phema.services.trainer.control.ray_jobs import RayJobs, RayUnavailable
from phema.services.trainer.control.reconciler import Reconciler
from phema.shared.catalog import Catalog, Job, JobKind, JobState, submission_id
from phema.shared.catalog.models import IdempotencyRecord
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.settings import Settings
from phema.shared.snapshots.stores import object_keys
from phema.shared.telemetry import Meters, configure_logs, metrics
from phema.shared.wiring import store_from
from tests.trainer.rays import submit
from tests.trainer.support import get_run, tiny_config, wait_until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def ray_jobs(ray_cluster: RayHead) -> Iterator[RayJobs]:
    with RayJobs(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], token=ray_cluster.env["RAY_AUTH_TOKEN"]) as jobs:
        yield jobs


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, poll_seconds=0.05)


def reconciler(settings: Settings, catalog: Catalog, jobs: RayJobs, meters: Meters | None = None) -> Reconciler:
    return Reconciler(settings, catalog, jobs, meters or Meters("trainer"), owner="test")


def state_after_rounds(rounds: Reconciler, catalog: Catalog, run: str, wanted: JobState) -> None:
    def reached() -> bool:
        rounds.reconcile()
        return get_run(catalog, run).state is wanted

    wait_until(reached, f"state {wanted}")


def test_a_claim_that_was_never_submitted_is_adopted_and_a_cancel_before_the_start_is_quick(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The trainer died between its claim and the submission; the next one submits under the same id."""
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="a trainer that died", lease_seconds=300) is not None
    name = submission_id(run.job_id, 1)
    assert ray_jobs.get(name) is None
    rounds = reconciler(settings, local_catalog, ray_jobs)
    rounds.reconcile()
    assert ray_jobs.get(name) is not None
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(run.job_id)
    state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)
    job = ray_jobs.get(name)
    assert job is not None
    assert job.ended


def test_a_cancelled_claim_is_never_submitted(settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs) -> None:
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="a trainer that died", lease_seconds=300) is not None
        tx.jobs.request_cancel(run.job_id)
    reconciler(settings, local_catalog, ray_jobs).reconcile()
    assert get_run(local_catalog, run.id).state is JobState.CANCELLED
    assert ray_jobs.get(submission_id(run.job_id, 1)) is None


def test_an_attempt_without_a_result_is_retried_and_then_fails_with_its_log(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The cluster's environment lacks the catalog's password, so the driver refuses to start."""
    wanting = settings.model_copy(update={"database_url": "postgresql://phema:hunter2@localhost/phema"})
    config = tiny_config()
    with local_catalog.transaction() as tx:
        run = tx.runs.create("run", config.model_dump(mode="json"), config.config_hash, 320, max_attempts=2)
    meters, store = Meters("trainer"), store_from(settings)
    logs = AttemptLogs(ray_jobs, store)
    rounds = Reconciler(wanting, local_catalog, ray_jobs, meters, owner="test", logs=logs)
    state_after_rounds(rounds, local_catalog, run.id, JobState.FAILED)
    job = get_run(local_catalog, run.id).job
    assert job.fence == 2
    assert job.error is not None
    assert job.error.startswith(
        "Attempt 2 ended without a result (failed): Job entrypoint command failed with exit code 2"
    )
    assert "PHEMA_DATABASE_URL is a secret" in job.error
    assert "hunter2" not in job.error
    rounds.reconcile()  # notices the end
    kept = [store.get(object_keys.attempt_log_key(run.id, submission_id(job.id, fence))) for fence in (1, 2)]
    assert all(b"PHEMA_DATABASE_URL is a secret" in log for log in kept)
    value = meters.registry.get_sample_value
    assert value("phema_training_attempts_total", {"outcome": "submitted"}) == 2
    assert value("phema_training_attempts_total", {"outcome": "lost"}) == 2
    assert value("phema_job_seconds_count", {"kind": "train", "state": "failed"}) == 1
    assert value("phema_job_seconds_count", {"kind": "train", "state": "cancelled"}) == 0
    assert value("phema_trainings_running") == 0


def test_of_several_trainers_one_counts_the_end_of_a_job(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The trainer that claimed the job, or the one that started last: it takes over the jobs of its predecessor."""
    counts: dict[str, Meters] = {}

    def trainer(owner: str) -> Reconciler:
        counts[owner] = Meters("trainer")
        return Reconciler(settings, local_catalog, ray_jobs, counts[owner], owner=owner)

    def counted(owner: str) -> float | None:
        labels = {"kind": "train", "state": "failed"}
        return counts[owner].registry.get_sample_value("phema_job_seconds_count", labels)

    def claimed_by_one(name: str) -> Job:
        submit(local_catalog, tiny_config(), name=name)
        with local_catalog.transaction() as tx:
            job = tx.leases.claim([JobKind.TRAIN], owner="one", lease_seconds=300)
            assert job is not None
            tx.leases.report(job.id, job.fence, "its driver was heard")
        return job

    def ended(job: Job, *trainers: Reconciler) -> None:
        for each in trainers:
            each.reconcile()
        with local_catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "no", retry=False)
        for each in trainers:
            each.reconcile()

    one, other = trainer("one"), trainer("other")
    for each in (one, other):
        each.reconcile()
    ended(claimed_by_one("first"), one, other)
    assert (counted("one"), counted("other")) == (1, 0)
    job = claimed_by_one("second")
    for each in (one, other):
        each.reconcile()
    ended(job, trainer("restarted"), one, other)
    assert (counted("one"), counted("other"), counted("restarted")) == (1, 0, 1)


def test_an_error_of_ray_about_a_job_is_logged_once_with_its_ids(
    settings: Settings, local_catalog: Catalog, log_stream: io.StringIO
) -> None:
    run = submit(local_catalog, tiny_config(), request_id="asked-by-a-user")
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="a trainer that died", lease_seconds=300) is not None
    configure_logs("trainer", stream=log_stream)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with RayJobs(f"http://127.0.0.1:{nobody.getsockname()[1]}", token="a-token-for-ray") as ray_jobs:
            rounds = reconciler(settings, local_catalog, ray_jobs)
            for _ in range(2):
                with pytest.raises(RayUnavailable):
                    rounds.reconcile()
    (line,) = map(json.loads, log_stream.getvalue().splitlines())
    assert line["message"].startswith("Ray does not answer at http://127.0.0.1:")
    ids = {"run_id": run.id, "job_id": run.job_id, "attempt": 1, "request_id": "asked-by-a-user"}
    assert line.items() >= ids.items()


def test_a_cancelled_training_that_updates_its_message_is_not_ended(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """Not even after six times the grace period, since storing may take long. When the updates stop, it is ended."""
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=300)
        assert job is not None
        tx.jobs.request_cancel(job.id)
    name, grace = submission_id(job.id, job.fence), 0.3
    ray_jobs.submit(name, "exec sleep 1000", env={}, metadata={})
    rounds = Reconciler(settings, local_catalog, ray_jobs, Meters("trainer"), owner="test", cancel_grace_s=grace)
    began, words = time.monotonic(), 0
    while time.monotonic() - began < 6 * grace:
        words += 1
        with local_catalog.transaction() as tx:
            tx.leases.report(job.id, job.fence, f"word {words}")
        rounds.reconcile()
        found = ray_jobs.get(name)
        assert found is not None
        assert not found.ended
    state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_no_more_trainings_run_than_allowed(settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs) -> None:
    runs = [submit(local_catalog, tiny_config(), name=f"run {i}") for i in range(3)]
    allowed = settings.model_copy(update={"max_running_trainings": 2})
    rounds = reconciler(allowed, local_catalog, ray_jobs)
    for _ in range(2):
        rounds.reconcile()
    states = [get_run(local_catalog, run.id).state for run in runs]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED]
    for run in runs:
        with local_catalog.transaction() as tx:
            tx.jobs.request_cancel(run.job_id)
        state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_a_driver_without_heartbeats_loses_the_job(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=0) is not None
    name = submission_id(run.job_id, 1)
    ray_jobs.submit(name, "exec sleep 1000", env={}, metadata={})
    rounds = reconciler(settings, local_catalog, ray_jobs)
    rounds.reconcile()
    job = get_run(local_catalog, run.id).job
    assert (job.state, job.fence) == (JobState.RUNNING, 2)

    def stopped() -> bool:
        found = ray_jobs.get(name)
        return found is not None and found.status == "STOPPED"

    wait_until(stopped, "the end of the driver without heartbeats")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(run.job_id)
    state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_nothing_is_claimed_while_ray_is_unavailable(settings: Settings, local_catalog: Catalog) -> None:
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        tx.idempotency.save("of the year 1970", "hash", 201, None)
        tx.idempotency._session.execute(update(IdempotencyRecord).values(created_at=0.0))
    with RayJobs("http://127.0.0.1:9", token="any") as nobody:
        rounds = reconciler(settings, local_catalog, nobody)
        with pytest.raises(RayUnavailable, match=r"Ray does not answer at http://127\.0\.0\.1:9"):
            rounds.reconcile()
        stopping = threading.Event()
        thread = threading.Thread(target=rounds.run, args=[stopping])
        thread.start()  # keeps trying rather than ending
        stopping.wait(0.3)
        assert thread.is_alive()
        stopping.set()
        thread.join()
    job = get_run(local_catalog, run.id).job
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    with local_catalog.transaction(read_only=True) as tx:
        assert tx.idempotency.get("of the year 1970") is None, "tidying needs no Ray"


def test_metrics_are_announced_and_withdrawn(local_catalog: Catalog) -> None:
    meters = Meters("trainer")
    meters.set(metrics.TRAININGS_RUNNING, 2)
    with announced(meters, local_catalog, "127.0.0.1", interval_s=5) as address:

        def live() -> list[tuple[str, str]]:
            with local_catalog.transaction() as tx:
                return [(target.kind, target.address) for target in tx.scrape_targets.live(60)]

        assert wait_until(live, "a target") == [("trainer", address)]
        assert "phema_trainings_running 2.0" in httpx.get(f"http://{address}/metrics").text
    assert live() == []
