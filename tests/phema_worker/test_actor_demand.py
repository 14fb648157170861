"""How many actors a worker keeps, decided from the queue of a real catalog; and a worker that starts before Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phema.local_service.processes import free_port
from phema.services.phema_worker import actor_demand
from phema.services.phema_worker.actor_demand import ActorDemand
from phema.services.phema_worker.actor_slot import KINDS
from phema.shared.catalog import Catalog, JobKind
from phema.shared.settings import Settings
from tests.fixtures.catalog import only

NO_PAUSE = 1e-9


def queue(catalog: Catalog, kind: JobKind, count: int = 1) -> None:
    with catalog.transaction() as tx:
        for _ in range(count):
            tx.jobs.enqueue(kind, payload={"evaluation_id": os.urandom(4).hex()}, content_key=os.urandom(8).hex())


def claim(catalog: Catalog, kind: JobKind) -> None:
    with catalog.transaction() as tx:
        assert tx.leases.claim([kind], owner="test", lease_seconds=60) is not None


def demand(catalog: Catalog, **settings: int) -> ActorDemand:
    return ActorDemand(Settings(poll_seconds=NO_PAUSE, **settings), catalog, KINDS)


def test_actors_start_for_jobs_that_no_free_actor_can_take(catalog: Catalog) -> None:
    worker = demand(catalog)
    assert worker.may_start("a"), "one is always there"
    assert not worker.may_start("b")
    queue(catalog, JobKind.EVALUATE)
    assert not worker.may_start("b"), "the free one takes it"
    queue(catalog, JobKind.EVALUATE)
    assert worker.may_start("b")
    assert not worker.may_start("c"), "the one that starts takes the second"
    for slot in ("a", "b"):
        claim(catalog, JobKind.EVALUATE)
        worker.began(slot)
    assert not worker.may_start("c")
    queue(catalog, JobKind.RECONSTRUCT)
    assert worker.may_start("c")


@only("sqlite")
def test_idle_actors_end_but_the_last(catalog: Catalog) -> None:
    worker = demand(catalog)
    queue(catalog, JobKind.EVALUATE, 2)
    assert [worker.may_start(slot) for slot in ("a", "b")] == [True, True]
    assert not worker.must_end("a", actor_demand.IDLE_SECONDS - 1)
    assert worker.must_end("a", actor_demand.IDLE_SECONDS)
    assert not worker.must_end("b", 1e6)


@only("sqlite")
@pytest.mark.parametrize("running", [False, True])
def test_a_training_leaves_one_actor_where_the_settings_say_so(catalog: Catalog, running: bool) -> None:
    limited, free = demand(catalog, actors_while_training=1), demand(catalog)
    queue(catalog, JobKind.EVALUATE, 3)
    for worker in (limited, free):
        assert [worker.may_start(slot) for slot in ("a", "b")] == [True, True]
    queue(catalog, JobKind.TRAIN)
    if running:
        claim(catalog, JobKind.TRAIN)
    assert limited.must_end("a", 0.0)
    assert not limited.must_end("b", 0.0)
    assert not limited.may_start("a")
    assert not free.must_end("a", 0.0)
    assert free.may_start("c")


@only("sqlite")
def test_a_worker_waits_for_ray_in_one_sentence(catalog_url: str, tmp_path: Path) -> None:
    port = free_port()
    env = {
        **os.environ,
        "PHEMA_STATE_DIR": str(tmp_path),
        "PHEMA_DATABASE_URL": catalog_url,
        "PHEMA_RAY_ADDRESS": f"127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "phema.services.phema_worker"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stderr is not None
            assert f"Ray does not answer at 127.0.0.1:{port} (" in worker.stderr.readline()
            worker.send_signal(signal.SIGTERM)
            assert worker.stderr.read() == ""
            assert worker.wait() == 0
        finally:
            worker.kill()
