"""A machine that is announced to go away, on a Ray cluster of three nodes: a head without CPUs and two that train."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from phema.local_service.processes import free_port
from phema.local_service.ray_head import COMMAND, RayHead
from phema.local_service.service import OnExit, Service
from phema.local_service.supervisor import Supervisor
from phema.shared.catalog import AttemptOutcome, Catalog, JobState
from tests.trainer.rays import Trainer, finished, submit
from tests.trainer.support import checkpoint_times, tiny_config, wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


ADDRESS = "127.0.0.2"
"""Ray takes 127.0.0.1 for a cluster of one machine, and lets other nodes look for it at another address."""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RayHead]:
    head = RayHead(num_cpus=0, environment=dict(os.environ))
    head.env = {name: value.replace("127.0.0.1", ADDRESS) for name, value in head.env.items()}
    head.env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
    service = replace(
        head.service,
        command=tuple(word.replace("127.0.0.1", ADDRESS) for word in head.service.command),
        environment={**head.service.environment, **head.env},
    )
    with supervised(service, tmp_path):
        yield head
    head.remove()


@contextmanager
def supervised(service: Service, logs: Path) -> Iterator[None]:
    supervisor = Supervisor([service], logs)
    try:
        supervisor.start(threading.Event())
        yield
    finally:
        supervisor.stop()


def machine(head: RayHead, name: str) -> Service:
    """A node of the cluster with two CPUs."""
    ports = ("object-manager", "node-manager", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
    command = (
        *(sys.executable, str(COMMAND), "start", f"--address={head.address}", "--block", "--num-cpus=2"),
        *("--disable-usage-stats", f"--node-ip-address={ADDRESS}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--{port}-port={free_port()}" for port in ports),
        f"--metrics-export-port={free_port()}",
    )
    return Service(name=name, command=command, environment={**os.environ, **head.env}, on_exit=OnExit.FAIL, grace=15)


def machines(head: RayHead) -> list[str]:
    """Ids of the nodes that can train."""
    answer = httpx.get(
        f"{head.env['PHEMA_RAY_DASHBOARD_URL']}/api/v0/nodes",
        params={"detail": 1},
        headers={"Authorization": f"Bearer {head.env['RAY_AUTH_TOKEN']}"},
    )
    found: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
    return [one["node_id"] for one in found if one["state"] == "ALIVE" and one["resources_total"].get("CPU")]


def announce_the_end(head: RayHead, node: str) -> None:
    """As providers of machines that can be taken away do, through Ray."""
    subprocess.run(
        [
            *(sys.executable, str(COMMAND), "drain-node", "--address", head.address, "--node-id", node),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"),
            *("--deadline-remaining-seconds", "240"),
        ],
        env={**os.environ, **head.env},
        check=True,
        capture_output=True,
    )


def test_workers_store_a_checkpoint_when_ray_announces_that_their_machine_goes_away(
    head: RayHead, local_catalog: Catalog, tmp_path: Path
) -> None:
    """The next attempt goes on at the step where the first one stopped, and none has failed."""
    far = {"total_images": 160_000, "snapshot_every": 80_000, "checkpoint_every": 80_000, "status_every": 160}
    trainer = Trainer(head, tmp_path)
    run = submit(local_catalog, tiny_config(**far, num_workers=2))

    def attempts() -> list[Any]:
        with local_catalog.transaction(read_only=True) as tx:
            return tx.jobs.attempts(run.job_id)

    def progress() -> int:
        with local_catalog.transaction(read_only=True) as tx:
            return max((point.num_images for point in tx.history.list(run.id).items), default=0)

    trainer.start()
    try:
        with supervised(machine(head, "first"), tmp_path):
            (first,) = wait_until(lambda: machines(head), "the first machine")
            wait_until(progress, "the first steps")
            announce_the_end(head, first)
            wait_until(lambda: attempts()[0].ended_at, "the end of the first attempt")
            assert attempts()[0].outcome is AttemptOutcome.RELEASED, attempts()[0].error
            (stored,) = [time for time in checkpoint_times(local_catalog, "run") if time > 0]
            assert stored >= progress()
        with supervised(machine(head, "second"), tmp_path):
            wait_until(lambda: progress() > stored, "steps on the second machine")
            with local_catalog.transaction() as tx:
                tx.jobs.request_cancel(run.job_id)
            assert finished(local_catalog, run.id).state is JobState.CANCELLED
        with local_catalog.transaction(read_only=True) as tx:
            times = [point.num_images for point in tx.history.list(run.id).items]
        assert len(times) == len(set(times)), "no step was made twice"
        assert [one.outcome for one in attempts()] == [AttemptOutcome.RELEASED, AttemptOutcome.CANCELLED]
    finally:
        assert trainer.stop() == 0
