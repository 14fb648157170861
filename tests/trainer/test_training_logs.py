"""The trainer's log holds the lines of its trainings and says how attempts ended, on a real Ray."""

from __future__ import annotations

import io
import json
import logging
import shlex
from pathlib import Path

import pytest

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control.ray_jobs import RayJobs
from phema.services.trainer.control.training_logs import TrainingLogs, new_lines
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, Job, submission_id
from tests.trainer.support import tiny_config, wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("lines", "anchor", "new"),
    [
        (["a", "b", "c"], [], ["a", "b", "c"]),
        (["a", "b", "c"], ["a", "b"], ["c"]),
        (["a", "b", "c"], ["b", "c"], []),
        (["x", "x", "y", "x", "x"], ["y", "x"], ["x"]),
        (["d", "e"], ["a", "b"], ["d", "e"]),
        ([], ["a"], []),
    ],
)
def test_lines_are_new_after_the_last_place_that_was_read(lines: list[str], anchor: list[str], new: list[str]) -> None:
    assert new_lines(lines, anchor) == new


def claimed(catalog: Catalog, name: str) -> Job:
    attempt = claim_locally(tiny_config(), catalog, name=name)
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(attempt.job_id)


def test_lines_of_a_training_and_its_end_reach_the_log(
    ray_cluster: RayHead, local_catalog: Catalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    with RayJobs(url, token=token) as jobs, TrainingLogs(jobs, local_catalog, stream) as logs:
        logs.watch([])
        jobs.submit(name, script, env={}, metadata={})
        logs.watch([job])
        wait_until(lambda: stream.getvalue(), "the first lines")
        go.touch()
        wait_until(lambda: "last" in stream.getvalue(), "the last line")
        with local_catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "The disk is full.", retry=False)
        logs.watch([])
        wait_until(lambda: [record for record in caplog.records if record.levelno == logging.WARNING], "the end")
    assert stream.getvalue().splitlines() == [first, first, last]
    assert "plain" in caplog.messages
    assert f"attempt {job.fence} ended (failed), the job is failed: The disk is full." in caplog.messages


def test_a_trainer_that_takes_a_training_over_does_not_repeat_its_lines(
    ray_cluster: RayHead, local_catalog: Catalog, tmp_path: Path
) -> None:
    job, go = claimed(local_catalog, "adopted"), tmp_path / "go"
    name = submission_id(job.id, job.fence)
    stream = io.StringIO()
    url, token = ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], ray_cluster.env["RAY_AUTH_TOKEN"]
    with RayJobs(url, token=token) as jobs:
        script = "echo '{\"old\": 1}'; while [ ! -e %s ]; do sleep 0.1; done; echo '{\"new\": 1}'" % go  # noqa: UP031
        jobs.submit(name, script, env={}, metadata={})
        wait_until(lambda: jobs.last_lines(name, 10), "the old line")
        with TrainingLogs(jobs, local_catalog, stream) as logs:
            logs.watch([job])
            wait_until(lambda: logs.following(name), "the first look")
            go.touch()
            wait_until(lambda: stream.getvalue(), "the new line")
    assert stream.getvalue() == '{"new": 1}\n'
