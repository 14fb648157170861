"""Programs for the tests of races and crashes: `python -m tests.catalog.processes PROGRAM URL …`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from sqlalchemy import event

from phema.shared.catalog import Catalog, JobKind, LeaseLost

LEASE_SECONDS = 1.0


def claim_all(url: str, owner: str) -> None:
    """Print ready, wait for a line, claim jobs until none is due, and print their ids."""
    catalog = Catalog(url)
    catalog.check()
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        with catalog.transaction() as tx:
            job = tx.leases.claim(list(JobKind), owner=owner, lease_seconds=60)
        if job is None:
            return
        print(job.id, flush=True)


def work(url: str, owner: str) -> None:
    """A worker like those of the services: expire, claim, heartbeat, end; until all jobs have ended."""
    catalog = Catalog(url)
    while True:
        with catalog.transaction() as tx:
            tx.leases.expire()
            job = tx.leases.claim(list(JobKind), owner=owner, lease_seconds=LEASE_SECONDS)
        if job is None:
            with catalog.transaction(read_only=True) as tx:
                if not any(state in ("queued", "running") for _, state, _ in tx.queue_stats.read().counts):
                    return
            time.sleep(0.02)
            continue
        print("claimed", job.id, flush=True)
        try:
            for step in range(4):
                with catalog.transaction() as tx:
                    tx.leases.heartbeat(job.id, job.fence, lease_seconds=LEASE_SECONDS, progress=step / 4)
                time.sleep(0.02)
            with catalog.transaction() as tx:
                tx.leases.succeed(job.id, job.fence, {"by": owner, "fence": job.fence})
        except LeaseLost:
            print("lost", job.id, flush=True)


def hold(url: str, owner: str) -> None:
    """Claim one job and send heartbeats for it without end."""
    catalog = Catalog(url)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner=owner, lease_seconds=LEASE_SECONDS)
    assert job is not None
    print("claimed", job.id, flush=True)
    while True:
        with catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=LEASE_SECONDS)
        time.sleep(LEASE_SECONDS / 10)


def train(catalog: Catalog) -> None:
    """A training attempt: claim, report, write a snapshot and a checkpoint, end."""
    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="mortal", lease_seconds=60)
    assert job is not None
    assert job.run_id is not None
    with catalog.transaction() as tx:
        tx.leases.heartbeat(job.id, job.fence, lease_seconds=60, progress=0.5)
        tx.runs.set_progress(job.run_id, 64)
    with catalog.transaction() as tx:
        tx.leases.assert_fence(job.id, job.fence)
        tx.checkpoints.add(run_id=job.run_id, num_images=64, key="checkpoint", size=1, sha256="s")
        tx.leases.made_progress(job.id, job.fence)
    with catalog.transaction() as tx:
        tx.leases.assert_fence(job.id, job.fence)
        tx.history.put(job.run_id, 64, {"loss": 1.0})
        tx.leases.succeed(job.id, job.fence, {"num_images": 64})


def give_up(catalog: Catalog) -> None:
    """An attempt that fails and can be retried."""
    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="mortal", lease_seconds=60)
    assert job is not None
    with catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "Out of memory.", retry=True)


def hand_back(catalog: Catalog) -> None:
    """An attempt whose worker is asked to shut down."""
    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="mortal", lease_seconds=60)
    assert job is not None
    with catalog.transaction() as tx:
        tx.leases.release(job.id, job.fence)


def take_away(catalog: Catalog) -> None:
    """Expire the leases of workers that send no heartbeats."""
    with catalog.transaction() as tx:
        tx.leases.expire()


def accept(catalog: Catalog) -> None:
    """A request of the API: a run, a reconstruction with its job, and the stored response."""
    with catalog.transaction() as tx:
        assert tx.idempotency.get("request") is None
        run = tx.runs.create("accepted", {}, "hash", total_images=64)
        row, needs_job = tx.reconstructions.find_or_create(
            run_id=run.id,
            num_images=64,
            profile={"kind": "power", "sigma_rel": 0.1, "gamma": 4.0},
            dtype="float32",
            plan={"snapshots": [], "coefficients": []},
        )
        assert needs_job
        job, _ = tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={"ids": [row.id]}, content_key=row.content_key)
        tx.reconstructions.assign([row.id], job.id)
        tx.idempotency.save("request", "hash", 202, {"id": run.id})


SCENARIOS = {function.__name__: function for function in (train, give_up, hand_back, take_away, accept)}


def die(url: str, scenario: str) -> None:
    """For each number N that is read: play the scenario in a child that kills itself with SIGKILL at its N-th step.

    A step is any statement, and any COMMIT. Prints `killed`, or `survived` when the scenario has fewer steps.
    """
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _play(SCENARIOS[scenario], url, int(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            print("killed", flush=True)
        else:
            assert os.WEXITSTATUS(status) == 0
            print("survived", flush=True)


def _play(scenario: Callable[[Catalog], None], url: str, fatal: int) -> None:
    catalog = Catalog(url)
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(catalog._engine, "before_cursor_execute", step)
    event.listen(catalog._engine, "commit", step)
    scenario(catalog)
    catalog.close()


if __name__ == "__main__":
    {"claim_all": claim_all, "work": work, "hold": hold, "die": die}[sys.argv[1]](*sys.argv[2:])
