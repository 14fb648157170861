"""Ray's Jobs API as the trainer uses it, on a real cluster."""

from __future__ import annotations

import inspect
import secrets
import socket

import pytest
from ray.dashboard.modules.job import job_manager

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control.ray_jobs import NO_ROOM, RayJob, RayJobs, RayUnavailable
from tests.fixtures.ray import LOGICAL_CPUS
from tests.trainer.support import wait_until

pytestmark = pytest.mark.timeout(300)


def connect(cluster: RayHead) -> RayJobs:
    return RayJobs(cluster.env["PHEMA_RAY_DASHBOARD_URL"], token=cluster.env["RAY_AUTH_TOKEN"])


def ended(jobs: RayJobs, submission: str) -> RayJob:
    def job() -> RayJob | None:
        found = jobs.get(submission)
        return found if found is not None and found.ended else None

    found: RayJob = wait_until(job, f"the end of {submission}")
    return found


def test_a_submission_runs_once_and_says_how_it_ended(ray_cluster: RayHead) -> None:
    name = f"test-{secrets.token_hex(4)}"
    with connect(ray_cluster) as jobs:
        jobs.check()
        assert jobs.get(name) is None
        for _ in range(3):
            jobs.submit(
                name, "echo said $PHEMA_LOG_LEVEL; exit 7", env={"PHEMA_LOG_LEVEL": "debug"}, metadata={"a": "b"}
            )
        job = ended(jobs, name)
    assert job.status == "FAILED"
    assert job.reason == "Job entrypoint command failed with exit code 7; said debug"


def test_a_submission_can_be_stopped_more_than_once(ray_cluster: RayHead) -> None:
    name = f"test-{secrets.token_hex(4)}"
    with connect(ray_cluster) as jobs:
        jobs.stop(name)  # not known yet
        jobs.submit(name, "exec sleep 1000", env={}, metadata={})
        wait_until(lambda: (job := jobs.get(name)) is not None and job.status == "RUNNING", "the start")
        jobs.stop(name)
        assert ended(jobs, name).status == "STOPPED"
        jobs.stop(name)


def test_a_job_waits_for_its_resources(ray_cluster: RayHead) -> None:
    name = f"test-{secrets.token_hex(4)}"
    with connect(ray_cluster) as jobs:
        assert jobs.cluster_resources()["CPU"] == LOGICAL_CPUS
        jobs.submit(name, "exec sleep 1000", env={}, metadata={}, resources={"CPU": LOGICAL_CPUS})
        wait_until(lambda: (job := jobs.get(name)) is not None and job.status == "RUNNING", "the start")
        second = f"{name}-second"
        jobs.submit(second, "exec true", env={}, metadata={}, resources={"CPU": 1.0})
        job = jobs.get(second)
        assert job is not None
        assert job.pending
        jobs.stop(name)
        assert ended(jobs, second).status == "SUCCEEDED"


def test_ray_giving_up_on_a_job_without_room_is_recognised() -> None:
    """Ray waits for 15 minutes, so the sentence is looked up in its source."""
    assert f'"{NO_ROOM} "' in inspect.getsource(job_manager)
    assert RayJob("FAILED", f"{NO_ROOM} 900.0 seconds. This timeout can be configured").found_no_room
    assert not RayJob("FAILED", "Job entrypoint command failed with exit code 1").found_no_room


def test_a_wrong_token_is_named(ray_cluster: RayHead) -> None:
    with (
        RayJobs(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], token="wrong") as jobs,
        pytest.raises(RayUnavailable, match="answered 40"),
    ):
        jobs.check()


def test_a_ray_that_is_not_there_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with RayJobs(url, token="any") as jobs:
            for call in (jobs.check, lambda: jobs.get("x"), lambda: jobs.stop("x")):
                with pytest.raises(RayUnavailable, match=f"Ray does not answer at {url}"):
                    call()
