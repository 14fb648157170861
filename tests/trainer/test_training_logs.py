"""The trainer's log holds the lines of its trainings and says how attempts ended, on a real Ray."""

from __future__ import annotations

import io
import json
import logging
import shlex
from pathlib import Path

import pytest

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control.attempt_follower import AttemptFollower
from phema.services.trainer.control.ray_jobs import RayJobs
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, Job, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import tiny_config, wait_until

pytestmark = pytest.mark.timeout(240)


def claimed(catalog: Catalog, name: str) -> Job:
    attempt = claim_locally(tiny_config(), catalog, name=name)
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(attempt.job_id)


def test_lines_of_a_training_and_its_end_reach_the_log(
    ray_cluster: RayHead,
    local_catalog: Catalog,
    local_store: ObjectStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    job, go = claimed(local_catalog, "talking"), tmp_path / "go"
    name = submission_id(job.id, job.fence)
    first, last = json.dumps({"message": "first"}), json.dumps({"message": "last"})
    script = (
        f"echo {shlex.quote(first)}; echo {shlex.quote(first)}; echo plain; "
        f"while [ ! -e {go} ]; do sleep 0.1; done; echo {shlex.quote(last)}"
    )
    stream = io.StringIO()
    url, token = ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], ray_cluster.env["RAY_AUTH_TOKEN"]
    with (
        RayJobs(url, token=token) as jobs,
        AttemptFollower(jobs, local_catalog, local_store, stream) as follower,
    ):
        follower.watch([])
        jobs.submit(name, script, env={}, metadata={})
        follower.watch([job])
        wait_until(lambda: stream.getvalue(), "the first lines")
        go.touch()
        wait_until(lambda: "last" in stream.getvalue(), "the last line")
        with local_catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "The disk is full.", retry=False)
        follower.watch([])
        wait_until(lambda: [record for record in caplog.records if record.levelno == logging.WARNING], "the end")
    assert stream.getvalue().splitlines() == [first, first, last]
    assert "plain" in caplog.messages
    assert f"attempt {job.fence} ended (failed), the job is failed: The disk is full." in caplog.messages
    kept = AttemptLog(local_store, str(job.run_id), name).read()
    assert kept.complete
    assert [line for line in kept.data.decode().splitlines() if line.startswith("{") or line == "plain"] == [
        *(first, first, "plain", last),
    ]


def test_a_trainer_that_takes_a_training_over_continues_its_lines(
    ray_cluster: RayHead, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Nothing is repeated, and nothing is missing that was written while no trainer ran."""
    job, go = claimed(local_catalog, "adopted"), tmp_path / "go"
    name = submission_id(job.id, job.fence)
    log = AttemptLog(local_store, str(job.run_id), name)
    first, second = io.StringIO(), io.StringIO()
    url, token = ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], ray_cluster.env["RAY_AUTH_TOKEN"]
    with RayJobs(url, token=token) as jobs:
        script = (
            "echo '{\"old\": 1}'; while [ ! -e %s ]; do sleep 0.1; done; "  # noqa: UP031
            "echo '{\"meanwhile\": 1}'; while [ ! -e %s.2 ]; do sleep 0.1; done; echo '{\"new\": 1}'" % (go, go)
        )
        jobs.submit(name, script, env={}, metadata={})
        with AttemptFollower(jobs, local_catalog, local_store, first) as follower:
            follower.watch([job])
            wait_until(log.exists, "the stored line")
        go.touch()
        wait_until(lambda: "meanwhile" in jobs.log(name), "the line of the meantime")
        with AttemptFollower(jobs, local_catalog, local_store, second) as follower:
            follower.watch([job])
            wait_until(lambda: second.getvalue(), "the line of the meantime")
            Path(f"{go}.2").touch()
            wait_until(lambda: "new" in second.getvalue(), "the new line")
    assert first.getvalue() == '{"old": 1}\n'
    assert second.getvalue() == '{"meanwhile": 1}\n{"new": 1}\n'
