"""Rounds of the reconciler on a real cluster, with attempts that end before they train."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control import reconciler as module
from phema.services.trainer.control.attempt_follower import AttemptFollower
from phema.services.trainer.control.ray_jobs import RayJob, RayJobs, RayUnavailable
from phema.services.trainer.control.reconciler import Reconciler
from phema.shared.catalog import Catalog, Job, JobKind, JobState, Run, submission_id
from phema.shared.catalog.models import IdempotencyRecord
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.settings import Settings
from phema.shared.snapshots.stores import object_keys
from phema.shared.telemetry import Meters, configure_logs, metrics
from phema.shared.wiring import store_from
from tests.fixtures.ray import LOGICAL_CPUS
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
    wait_until(lambda: (job := ray_jobs.get(name)) is not None and job.ended, "the end of the driver")


STOPS = pytest.mark.parametrize("stop", [JobState.CANCELLED, JobState.PAUSED])


def request(catalog: Catalog, run: Run, stop: JobState) -> None:
    with catalog.transaction() as tx:
        if stop is JobState.PAUSED:
            tx.run_control.pause(run.id)
        else:
            tx.jobs.request_cancel(run.job_id)


@STOPS
def test_a_claim_that_should_stop_is_never_submitted(
    stop: JobState, settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="a trainer that died", lease_seconds=300) is not None
    request(local_catalog, run, stop)
    meters = Meters("trainer")
    reconciler(settings, local_catalog, ray_jobs, meters).reconcile()
    assert get_run(local_catalog, run.id).state is stop
    assert ray_jobs.get(submission_id(run.job_id, 1)) is None
    assert meters.registry.get_sample_value("phema_training_attempts_total", {"outcome": stop.value}) == 1


def test_an_attempt_without_a_result_is_retried_and_then_fails_with_its_log(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The cluster's environment lacks the catalog's password, so the driver refuses to start."""
    wanting = settings.model_copy(update={"database_url": "postgresql://phema:hunter2@localhost/phema"})
    config = tiny_config()
    with local_catalog.transaction() as tx:
        run = tx.runs.create("run", config.model_dump(mode="json"), config.config_hash, 320, max_attempts=2)
    meters, store = Meters("trainer"), store_from(settings)
    with AttemptFollower(ray_jobs, local_catalog, store) as follower:
        rounds = Reconciler(wanting, local_catalog, ray_jobs, meters, owner="test", follower=follower)
        state_after_rounds(rounds, local_catalog, run.id, JobState.FAILED)
        rounds.reconcile()  # notices the end
        keys = [object_keys.attempt_log_key(run.id, submission_id(run.job_id, fence)) for fence in (1, 2)]
        wait_until(lambda: all(store.head(key) for key in keys), "the logs")
    job = get_run(local_catalog, run.id).job
    assert job.fence == 2
    assert job.error is not None
    assert job.error.startswith(
        "Attempt 2 ended without a result (failed): Job entrypoint command failed with exit code 2"
    )
    assert "PHEMA_DATABASE_URL is a secret" in job.error
    assert "hunter2" not in job.error
    assert all(b"PHEMA_DATABASE_URL is a secret" in store.get(key) for key in keys)
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
            for _ in range(3):
                rounds.reconcile()
    (line,) = map(json.loads, log_stream.getvalue().splitlines())
    assert line["message"].startswith("Ray does not answer at http://127.0.0.1:")
    ids = {"run_id": run.id, "job_id": run.job_id, "attempt": 1, "request_id": "asked-by-a-user"}
    assert line.items() >= ids.items()


@STOPS
def test_a_training_that_stops_and_updates_its_message_is_not_ended(
    stop: JobState, settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """Not even after six times the grace period, since storing may take long. When the updates stop, it is ended."""
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=300)
        assert job is not None
    request(local_catalog, run, stop)
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
    state_after_rounds(rounds, local_catalog, run.id, stop)


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
    wait_until(lambda: (found := ray_jobs.get(name)) is not None and not found.pending, "the start of the driver")
    impatient = settings.model_copy(update={"lease_seconds": 2.0, "heartbeat_seconds": 0.1})
    rounds = reconciler(impatient, local_catalog, ray_jobs)

    def has_next_attempt() -> bool:
        rounds.reconcile()
        job = get_run(local_catalog, run.id).job
        return (job.state, job.fence, job.attempts) == (JobState.RUNNING, 2, 2)

    wait_until(has_next_attempt, "the next attempt")
    with local_catalog.transaction(read_only=True) as tx:
        assert tx.jobs.attempts(run.job_id)[0].error == "Attempt 1 did not start within 120 s."

    def stopped() -> bool:
        found = ray_jobs.get(name)
        return found is not None and found.status == "STOPPED"

    wait_until(stopped, "the end of the driver without heartbeats")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(run.job_id)
    state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_a_driver_that_ended_with_its_ray_is_no_attempt(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The user stopped the service, or the head's machine restarted: the new Ray knows no earlier job."""
    config = tiny_config()
    with local_catalog.transaction() as tx:
        run = tx.runs.create("run", config.model_dump(mode="json"), config.config_hash, 320, max_attempts=1)
        job = tx.leases.claim([JobKind.TRAIN], owner="before", lease_seconds=0)
        assert job is not None
        tx.leases.report(job.id, job.fence, "160 of 320 images")
    rounds = reconciler(settings.model_copy(update={"lease_seconds": 2.0}), local_catalog, ray_jobs)

    def has_next_attempt() -> bool:
        rounds.reconcile()
        job = get_run(local_catalog, run.id).job
        return (job.state, job.fence, job.attempts) == (JobState.RUNNING, 2, 1)

    wait_until(has_next_attempt, "the next attempt, which counts as the first")
    with local_catalog.transaction() as tx:
        assert tx.jobs.attempts(job.id)[0].error == "Attempt 1 sent no heartbeat for 2 s."
        tx.jobs.request_cancel(run.job_id)
    state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_a_run_larger_than_the_cluster_waits_in_the_queue_and_lets_others_go_first(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """As while the hosts of its workers restart. However long it waits, it is no attempt."""
    large = submit(local_catalog, tiny_config(num_workers=16), name="large")
    small = submit(local_catalog, tiny_config(), name="small")
    rounds = reconciler(settings, local_catalog, ray_jobs)
    rounds.reconcile()
    job = get_run(local_catalog, large.id).job
    assert (job.state, job.attempts, job.fence) == (JobState.QUEUED, 0, 0)
    assert job.message == "waiting for resources: num_workers 16 needs 16 CPUs, but the cluster has 4"
    assert get_run(local_catalog, small.id).state is JobState.RUNNING
    for run in (large, small):
        with local_catalog.transaction() as tx:
            tx.jobs.request_cancel(run.job_id)
        state_after_rounds(rounds, local_catalog, run.id, JobState.CANCELLED)


def test_a_run_that_finds_no_room_says_so_and_trains_once_there_is_room(
    settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer renews the lease meanwhile: it is one attempt, however long the wait."""
    monkeypatch.setattr(module, "USUAL_START_SECONDS", 0.0)
    brief = settings.model_copy(update={"heartbeat_seconds": 0.2})
    ray_jobs.submit("takes-all", "exec sleep 1000", env={}, metadata={}, resources={"CPU": LOGICAL_CPUS})
    wait_until(lambda: (job := ray_jobs.get("takes-all")) is not None and not job.pending, "no room")
    run = submit(local_catalog, tiny_config())
    rounds = reconciler(brief, local_catalog, ray_jobs)
    expires: set[float] = set()

    def renewed() -> bool:
        rounds.reconcile()
        expires.add(get_run(local_catalog, run.id).job.lease_expires_at or 0.0)
        return len(expires) > 2

    try:
        wait_until(renewed, "a renewed lease")
        message = get_run(local_catalog, run.id).job.message
        assert message is not None
        assert message.startswith(
            "waiting for resources: num_workers 1 finds no room on the cluster: each worker takes 1 CPU of one node; "
        )
    finally:
        ray_jobs.stop("takes-all")
    state_after_rounds(rounds, local_catalog, run.id, JobState.SUCCEEDED)
    assert get_run(local_catalog, run.id).job.fence == 1


@STOPS
def test_a_waiting_run_stops_at_once(
    stop: JobState, settings: Settings, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """Ray ends a job that it has not started only once it has room for it."""
    taken = f"takes-all-{stop}"
    ray_jobs.submit(taken, "exec sleep 1000", env={}, metadata={}, resources={"CPU": LOGICAL_CPUS})
    wait_until(lambda: (job := ray_jobs.get(taken)) is not None and not job.pending, "no room")
    try:
        run = submit(local_catalog, tiny_config())
        rounds = reconciler(settings, local_catalog, ray_jobs)
        rounds.reconcile()
        request(local_catalog, run, stop)
        rounds.reconcile()
        assert get_run(local_catalog, run.id).state is stop
    finally:
        ray_jobs.stop(taken)


def test_trouble_with_one_job_keeps_no_other_from_starting(
    settings: Settings, local_catalog: Catalog, ray_cluster: RayHead, log_stream: io.StringIO
) -> None:
    configure_logs("trainer", stream=log_stream)
    stuck = submit(local_catalog, tiny_config(), name="stuck")
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=300) is not None
    other = submit(local_catalog, tiny_config(), name="other")
    two = settings.model_copy(update={"max_running_trainings": 2})
    with (
        refusing(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], submission_id(stuck.job_id, 1)) as url,
        RayJobs(url, token=ray_cluster.env["RAY_AUTH_TOKEN"]) as jobs,
    ):
        rounds = reconciler(two, local_catalog, jobs)
        for _ in range(2):
            rounds.reconcile()
        assert jobs.get(submission_id(other.job_id, 1)) is not None
        assert get_run(local_catalog, other.id).state is JobState.RUNNING
        with local_catalog.transaction() as tx:
            tx.jobs.request_cancel(other.job_id)
        state_after_rounds(rounds, local_catalog, other.id, JobState.CANCELLED)
    assert log_stream.getvalue().count("no answer about this job") == 1
    assert get_run(local_catalog, stuck.id).state is JobState.RUNNING


@contextmanager
def refusing(target: str, submission: str) -> Iterator[str]:
    """The URL of a proxy of Ray's Jobs API that answers every question about one job with an error."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward("GET")

        def do_POST(self) -> None:
            self.forward("POST")

        def forward(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
            if submission in self.path:
                status, content = 500, b"no answer about this job"
            else:
                answer = httpx.request(method, target + self.path, content=body, headers=headers, timeout=60)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_trainer_that_another_one_forestalls_goes_on(
    settings: Settings, local_catalog: Catalog, ray_cluster: RayHead, ray_jobs: RayJobs
) -> None:
    """Both see a cancelled claim that was never submitted, and the other one ends it first."""
    run = submit(local_catalog, tiny_config())
    with local_catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="a trainer that died", lease_seconds=300) is not None
        tx.jobs.request_cancel(run.job_id)
    other = reconciler(settings, local_catalog, ray_jobs)

    class Forestalled(RayJobs):
        def get(self, submission_id: str) -> RayJob | None:
            found = super().get(submission_id)
            other.reconcile()
            return found

    with Forestalled(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], token=ray_cluster.env["RAY_AUTH_TOKEN"]) as late:
        reconciler(settings, local_catalog, late).reconcile()
    assert get_run(local_catalog, run.id).state is JobState.CANCELLED


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
