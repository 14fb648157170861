"""Rename, fork, delete and restore by the client and the command, and the transcripts of docs/life-cycle.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.errors import Conflict, NotFound, Refused
from phema.services.phema_worker.deletion.delete_run import RunDeletion
from phema.shared.catalog import JobKind, JobState, Run
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parents[2] / "docs" / "life-cycle.md"
DIGITS = "digits"
"""Name of the run in the page's transcripts."""


def transcripts() -> list[tuple[list[str], str]]:
    """(words after `phema`, output) of each transcript that this module runs."""
    blocks = re.findall(
        r"<!-- run by tests/phema/test_run_changes\.py -->\n```\n\$ phema (.*)\n((?:.*\n)*?)```", PAGE.read_text()
    )
    return [(shlex.split(command), output) for command, output in blocks]


@pytest.fixture
def run(service: Service, client: Client, name: str) -> Run:
    """An ended run with two checkpoints and four snapshots."""
    created = client.runs.create(name)
    job = service.claim(JobKind.TRAIN)
    with service.catalog.transaction() as tx:
        row = tx.runs.get(created.id)
        for num_images in (6400, 12_800):
            tx.checkpoints.add(
                run_id=row.id, num_images=num_images, key=f"{row.id}-{num_images}", size=0, sha256="a" * 64
            )
    service.snapshot(row, (6400, 12_800))
    service.finish(job)
    return row


def test_the_page_shows_what_the_command_prints(cli: Cli, run: Run, service: Service) -> None:
    (fork, began), (deletion, plan) = transcripts()
    with service.catalog.transaction() as tx:
        for checkpoint in tx.checkpoints.all_but_latest(run.id, 1):
            tx.checkpoints.delete(checkpoint.id)
    words = [word.replace(DIGITS, run.name).replace("finer", f"{run.name}-finer") for word in fork]
    assert cli(*words)[:2] == (0, began.replace("finer", f"{run.name}-finer"))
    with service.catalog.transaction() as tx:
        tx.jobs.request_cancel(tx.runs.get(f"{run.name}-finer").job_id)
        for checkpoint in tx.checkpoints.all_but_latest(run.id, 0):
            tx.checkpoints.delete(checkpoint.id)
    code, out, _ = cli(*(word.replace(DIGITS, run.name) for word in deletion))
    refused = f"refused: run {run.name}-finer began from run {run.name} and has no checkpoint of its own yet"
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(refused)] == plan.splitlines()


def test_a_run_is_renamed(cli: Cli, client: Client, run: Run) -> None:
    assert client.runs.rename(run.name, f"{run.name}-b").id == run.id
    assert cli("runs", "rename", f"{run.name}-b", f"{run.name}-c")[:2] == (0, f"{run.name}-b is now {run.name}-c\n")
    assert client.runs.get(f"{run.name}-c").id == run.id
    with pytest.raises(Conflict):
        client.runs.rename(client.runs.create(f"{run.name}-d"), f"{run.name}-c")


def test_a_fork_shows_where_it_comes_from(cli: Cli, client: Client, run: Run) -> None:
    forked = client.runs.fork(run.name, f"{run.name}-fork", {"learning_rate": 0.002}, num_images=6400)
    assert forked.parent is not None
    assert (forked.parent.run_id, forked.parent.num_images, forked.num_images) == (run.id, 6400, 6400)
    assert [fork.id for fork in client.runs.forks(run.name)] == [forked.id]
    assert f"{run.id}, the checkpoint at 6,400 images" in " ".join(cli("runs", "show", forked.name)[1].split())
    with pytest.raises(Refused, match="num_images 7000 has no checkpoint"):
        client.runs.fork(run.name, "never", num_images=7000)
    code, _, err = cli("runs", "fork", run.name, "never", "--at", "6400", "--from", "rec-1")
    assert (code, "give one of them" in err) == (2, True)


def test_a_run_is_deleted_unless_it_is_restored(cli: Cli, client: Client, service: Service, run: Run) -> None:
    assert client.runs.delete(run.name, dry_run=True).job is None
    code, out, _ = cli("runs", "delete", run.name, "--grace", "2")
    assert (code, f"keep it with: phema runs restore {run.name}" in out) == (0, True)
    assert client.runs.get(run.name).delete_at is not None
    assert "keep it with" in " ".join(cli("runs", "show", run.name)[1].split())
    with pytest.raises(Conflict, match="takes no new work"):
        client.reconstruct(run.name, [0.07])
    assert cli("runs", "restore", run.name)[:2] == (0, f"{run.name} is kept\n")
    code, _, err = cli("runs", "delete", run.name, "--now")
    assert (code, "give --yes as well" in err) == (2, True)
    assert cli("runs", "delete", run.name, "--now", "--yes")[0] == 0
    job = service.claim(JobKind.DELETE)
    end = RunDeletion(service.catalog, service.store, job).perform()
    with service.catalog.transaction() as tx:
        assert end(tx) is JobState.SUCCEEDED
    with pytest.raises(NotFound, match="was deleted at 20"):
        client.runs.get(run.name)
    code, _, err = cli("runs", "show", run.name)
    assert (code != 0, "was deleted at 20" in err) == (True, True)


def test_a_tree_of_jobs_is_shown_and_cancelled(cli: Cli, client: Client, service: Service, run: Run) -> None:
    (weights,) = client.reconstruct(run.name, [0.07], wait=False)
    evaluation = client.evaluate(weights, wait=False, num_samples=8)
    needed, needing = client.reconstruction(weights.id).job_id, evaluation.job_id
    assert needed is not None
    assert needing is not None
    assert f"needs reconstruct {needed} (queued)" in " ".join(cli("jobs", "show", needing)[1].split())
    assert f"needed by evaluate {needing} (queued)" in " ".join(cli("jobs", "show", needed)[1].split())
    assert cli("jobs", "cancel", needed, "--tree")[0] == 0
    assert client.jobs.get(needing).state == "cancelled"
