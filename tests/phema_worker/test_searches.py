"""Searches with real workers and actors: who is killed, and when, changes neither points nor figures nor the answer."""

from __future__ import annotations

import os
import signal
from typing import Any

from phema.shared.catalog import JobKind, JobState, Run, Study
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.submissions import searches
from phema.shared.submissions.job_options import JobOptions
from tests.phema_worker.lab import Lab, until

REQUEST = {"sigma_rel": (0.03, 0.22), "figure": "frechet", "budget": 640, "num_steps": 4, "grid": 1}


def ask(lab: Lab) -> Study:
    """A search of a run of its own; the weights of all such runs are equal."""
    run: Run = lab.create_run()
    lab.add_snapshots(run)
    with lab.catalog.transaction() as tx:
        prepared = searches.prepare(tx, run.id, SearchSpec.model_validate(REQUEST))
        return searches.submit(tx, prepared, JobOptions(max_attempts=5))


def figures(lab: Lab, search: Study) -> list[tuple[float, int, Any]]:
    """Of every point: its σ_rel, number of pictures and figures."""
    with lab.catalog.transaction(read_only=True) as tx:
        return [
            (
                point.point["weights"]["profile"]["sigma_rel"],
                point.point["recipe"]["num_samples"],
                point.evaluation.figures if point.evaluation else None,
            )
            for point in tx.studies.points(search.id)
        ]


def finish(lab: Lab, search: Study) -> Study:
    def ended() -> bool:
        with lab.catalog.transaction(read_only=True) as tx:
            return lab.workers[-1].alive and tx.studies.get(search.id).state.terminal

    until(ended, "the end of the search")
    with lab.catalog.transaction(read_only=True) as tx:
        found = tx.studies.get(search.id)
    assert found.state is JobState.SUCCEEDED, found.job and found.job.error
    return found


def test_killing_the_actor_and_the_worker_changes_nothing(local_lab: Lab) -> None:
    lab = local_lab
    worker = lab.worker()
    first = ask(lab)
    undisturbed = finish(lab, first)
    search = ask(lab)

    def done(count: int) -> bool:
        return sum(one is not None for _, _, one in figures(lab, search)) >= count

    until(lambda: done(1), "the first point")
    os.kill(worker.actor_pids()[-1], signal.SIGKILL)
    until(lambda: done(7), "a point of the second step")
    worker.kill()
    with lab.catalog.transaction(read_only=True) as tx:
        assert not tx.studies.get(search.id).state.terminal
    lab.worker()
    assert finish(lab, search).result == undisturbed.result
    assert figures(lab, search) == figures(lab, first)
    with lab.catalog.transaction(read_only=True) as tx:
        jobs = [job for job in tx.jobs.list(run_id=search.run_id, limit=500).items if job.kind is JobKind.EVALUATE]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * len(figures(lab, search)), "none was computed twice"
