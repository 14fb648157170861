"""Sweeps with real workers and actors: who is killed, and when, changes no figure."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx

from phema.shared.catalog import JobKind, JobState, Run, Study
from tests.api.process import ApiProcess
from tests.phema_worker.lab import Lab, until

GRID = {"sigma_rel": [0.03, 0.06, 0.1, 0.14, 0.18, 0.22], "num_samples": 192, "num_steps": 4, "grid": 2}


def trained(lab: Lab) -> Run:
    """A run of its own; the weights of all such runs are equal."""
    run = lab.create_run()
    lab.add_snapshots(run)
    return run


def ask(api: ApiProcess, run: Run, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{api.url}/v1/sweeps", json={"run": run.name, **GRID, **fields}, timeout=60)
    assert response.status_code in (200, 202), response.text
    found: dict[str, Any] = response.json()
    return found


def study(lab: Lab, sweep: dict[str, Any]) -> Study:
    with lab.catalog.transaction(read_only=True) as tx:
        return tx.studies.get(sweep["id"])


def figures(lab: Lab, sweep: dict[str, Any]) -> list[dict[str, float] | None]:
    with lab.catalog.transaction(read_only=True) as tx:
        return [point.evaluation.figures if point.evaluation else None for point in tx.studies.points(sweep["id"])]


def finish(lab: Lab, sweep: dict[str, Any]) -> list[dict[str, float] | None]:
    """Wait until the sweep has succeeded. Returns the figures of its points."""
    until(lambda: study(lab, sweep).state.terminal, "the end of the sweep")
    found = study(lab, sweep)
    assert found.state is JobState.SUCCEEDED, found.job and found.job.error
    return figures(lab, sweep)


def some_are_done(lab: Lab, sweep: dict[str, Any], count: int) -> bool:
    return sum(one is not None for one in figures(lab, sweep)) >= count


def test_killing_the_actor_the_worker_and_the_api_changes_no_figure(local_lab: Lab) -> None:
    lab = local_lab
    worker = lab.worker()
    api = ApiProcess({**os.environ, **lab.env, "PHEMA_API_PORT": "0"})
    try:
        undisturbed = finish(lab, ask(api, trained(lab)))
        assert len(undisturbed) == 6
        assert None not in undisturbed
        sweep = ask(api, trained(lab))
        until(lambda: some_are_done(lab, sweep, 1), "the first point")
        os.kill(worker.actor_pids()[-1], signal.SIGKILL)
        until(lambda: some_are_done(lab, sweep, 2), "another point")
        worker.kill()
        api.popen.kill()
        api.popen.communicate()
        assert not study(lab, sweep).state.terminal
        lab.worker()
        assert finish(lab, sweep) == undisturbed
        with lab.catalog.transaction(read_only=True) as tx:
            jobs = [
                job for job in tx.jobs.list(run_id=sweep["run_id"], limit=500).items if job.kind is JobKind.EVALUATE
            ]
        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 6, "nothing finished was computed twice"
        api = ApiProcess({**os.environ, **lab.env, "PHEMA_API_PORT": "0"})
        found = httpx.get(f"{api.url}/v1/sweeps/{sweep['id']}", timeout=60).json()
        assert [point["figures"] for point in found["points"]] == undisturbed
        assert found["result"]["best"] == found["best"]
    finally:
        api.popen.kill()
        api.popen.communicate()


def test_cancelling_a_sweep_stops_its_evaluations(local_lab: Lab) -> None:
    lab = local_lab
    lab.worker()
    api = ApiProcess({**os.environ, **lab.env, "PHEMA_API_PORT": "0"})
    try:
        sweep = ask(api, trained(lab), num_steps=64)

        def running() -> bool:
            with lab.catalog.transaction(read_only=True) as tx:
                return any(
                    job.run_id == sweep["run_id"] and job.progress > 0 for job in tx.jobs.running(JobKind.EVALUATE)
                )

        until(running, "an evaluation under way")
        httpx.post(f"{api.url}/v1/jobs/{study(lab, sweep).job_id}/cancel", timeout=60).raise_for_status()
        assert study(lab, sweep).state is JobState.CANCELLED

        def all_ended() -> bool:
            with lab.catalog.transaction(read_only=True) as tx:
                return all(
                    job.state.terminal
                    for job in tx.jobs.list(run_id=sweep["run_id"], limit=500).items
                    if job.kind is JobKind.EVALUATE
                )

        until(all_ended, "the end of its evaluations")
        again = ask(api, trained(lab))
        assert len(finish(lab, again)) == 6
    finally:
        api.popen.kill()
        api.popen.communicate()
