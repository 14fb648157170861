"""Log lines of a worker and its actor name the job, the run and the request."""

from __future__ import annotations

from functools import partial
from typing import Any

from phema.local_service.ray_head import RayHead
from phema.shared.catalog import JobState
from tests.fixtures.ray import log_lines, session_logs
from tests.phema_worker.conftest import only
from tests.phema_worker.lab import TIMES, Lab, until


@only("local")
def test_every_line_about_a_job_carries_its_ids(working_lab: Lab, ray_cluster: RayHead) -> None:
    lab = working_lab
    run = lab.create_run()
    lab.add_snapshots(run, times=TIMES[:2])
    good, _ = lab.ask_reconstructions(run, [0.07], request_id="asks-for-weights")
    lab.wait(good)
    bad, _ = lab.ask_reconstructions(run, [0.09], request_id="asks-in-vain")
    with lab.catalog.transaction() as tx:
        victim = str(tx.snapshots.list(run.id)[-1].key)
    lab.store.delete(victim)
    lab.wait(bad, JobState.FAILED)

    def about(*ids: str, last: str) -> list[dict[str, Any]]:
        """Lines with any of the ids, as none must have one alone; nothing before the last of them is written."""
        lines = log_lines(lab.worker().log, *session_logs(ray_cluster))
        found = [line for line in lines if set(ids) & set(map(str, line.values()))]
        return found if last in [line["message"] for line in found] else []

    for job, request_id, outcome in ((good, "asks-for-weights", "done"), (bad, "asks-in-vain", "failed")):
        assert job is not None
        last = f"the job is {lab.job(job).state}"
        found = until(partial(about, job.id, request_id, last=last), "the worker's last line")
        ids = {"run_id": run.id, "job_id": job.id, "attempt": 1, "request_id": request_id, "service": "worker"}
        assert all(line.items() >= ids.items() for line in found)
        messages = [line["message"] for line in sorted(found, key=lambda line: str(line["at"]))]
        assert messages[:2] == ["claimed a job: reconstruct", f"the task is {outcome}"], "the second is the actor's"
        assert messages[-1] == last
