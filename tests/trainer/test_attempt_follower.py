"""What the trainer does beside its main loop holds up nothing else, and forgets no object."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from phema.services.trainer.control import attempt_follower
from phema.services.trainer.control.attempt_follower import AttemptFollower
from phema.services.trainer.control.ray_jobs import RayJobs
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, JobKind, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.service_runtime.unlisted_objects import leave_note
from phema.shared.snapshots import ObjectInfo, ObjectStore, StoreUnreachable
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.object_keys import attempt_log_key, snapshot_key
from tests.trainer.support import tiny_config, wait_until


@contextmanager
def ray_that_knows_ended_jobs(written: Sequence[str] = ("what it said",)) -> Iterator[RayJobs]:
    """Ray's Jobs API, in which every job has failed, and has left what `written` holds at the time of the request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = {"logs": "".join(written)} if self.path.endswith("/logs") else {"status": "FAILED", "message": ""}
            content = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with RayJobs(f"http://127.0.0.1:{server.server_port}", token="none") as jobs:
            yield jobs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Stuck(LocalStore):
    """A folder that takes nothing until it is released."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.release = threading.Event(), threading.Event()

    def put(self, key: str, data: Any) -> ObjectInfo:
        self.reached.set()
        self.release.wait()
        return super().put(key, data)


def test_a_store_that_does_not_answer_holds_up_no_round(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction(read_only=True) as tx:
        running = tx.jobs.running(JobKind.TRAIN)
    store = Stuck(tmp_path / "store")
    with ray_that_knows_ended_jobs() as jobs, AttemptFollower(jobs, local_catalog, store) as follower:
        follower.watch(running)
        follower.watch([])  # returns, though the store does not
        assert store.reached.wait(30)
        follower.watch([])
        store.release.set()
        key = attempt_log_key(attempt.run_id, submission_id(attempt.job_id, attempt.fence))
        wait_until(lambda: store.head(key), "the log")
        assert store.get(key) == b"what it said"


def test_the_log_of_a_running_attempt_is_stored_while_it_grows(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_follower, "LOG_SECONDS", 0.02)
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction(read_only=True) as tx:
        running = tx.jobs.running(JobKind.TRAIN)
    log = AttemptLog(local_store, attempt.run_id, submission_id(attempt.job_id, attempt.fence))
    written: list[str] = ["it starts\n"]
    with ray_that_knows_ended_jobs(written) as jobs, AttemptFollower(jobs, local_catalog, local_store) as follower:
        follower.watch(running)
        wait_until(log.exists, "the first line")
        assert log.read() == (b"it starts\n", False)
        written.append("it trains\n")
        assert wait_until(lambda: log.read().data, "the second line") == b"it trains\n"
        follower.watch([])
        assert wait_until(lambda: log.read().complete, "the whole log")


def test_objects_that_an_ended_run_left_unlisted_are_deleted(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """The attempt was cut off from the catalog when it stored them, and died. Objects without a note stay: `phema db
    rebuild` may name them."""
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction(read_only=True) as tx:
        running = tx.jobs.running(JobKind.TRAIN)
    unnamed, named = (
        snapshot_key(attempt.run_id, num_images=time, label="0.05", sha256=f"{time:064x}") for time in (16, 32)
    )
    without_a_note = snapshot_key(attempt.run_id, num_images=48, label="0.05", sha256=f"{48:064x}")
    for key in (unnamed, named, without_a_note):
        local_store.put(key, key.encode())
    for key in (unnamed, named):
        leave_note(local_store, attempt.run_id, key)
    with local_catalog.transaction() as tx:
        tx.snapshots.add(
            run_id=attempt.run_id,
            num_images=32,
            profile={"kind": "power", "sigma_rel": 0.05, "gamma": 6.94},
            dtype="float32",
            key=named,
            size=len(named),
            sha256=f"{32:064x}",
        )
    with ray_that_knows_ended_jobs() as jobs, AttemptFollower(jobs, local_catalog, local_store) as follower:
        follower.watch(running)
        with local_catalog.transaction() as tx:
            tx.leases.fail(attempt.job_id, attempt.fence, "Its machine is gone.", retry=False)
        follower.watch([])
        wait_until(lambda: delete_listed(local_catalog, local_store) == 1, "the deletion")
    assert [local_store.head(key) is not None for key in (unnamed, named, without_a_note)] == [False, True, True]
    assert list(local_store.list("unlisted/")) == []


def test_a_run_that_was_deleted_meanwhile_gets_no_log(local_catalog: Catalog, tmp_path: Path) -> None:
    deleted, other = (claim_locally(tiny_config(), local_catalog, name=name) for name in ("deleted", "other"))
    with local_catalog.transaction(read_only=True) as tx:
        running = tx.jobs.running(JobKind.TRAIN)
    with local_catalog.transaction() as tx:
        for attempt in (deleted, other):
            tx.leases.fail(attempt.job_id, attempt.fence, "It ended.", retry=False)
        tx.run_deletions.remove(deleted.run_id, [])
    store = LocalStore(tmp_path / "store")
    with ray_that_knows_ended_jobs() as jobs, AttemptFollower(jobs, local_catalog, store) as follower:
        follower.watch(running)
        follower.watch([])
        name = submission_id(other.job_id, other.fence)
        wait_until(lambda: store.head(attempt_log_key(other.run_id, name)) is not None, "the log of the other run")
        assert [info.key for info in store.list(f"logs/{deleted.run_id}/")] == []


class Away(LocalStore):
    """A folder that cannot be reached."""

    def put(self, key: str, data: Any) -> ObjectInfo:
        raise StoreUnreachable("the store does not answer")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise StoreUnreachable("the store does not answer")


def test_lines_of_a_training_are_told_while_the_store_is_away(local_catalog: Catalog, tmp_path: Path) -> None:
    claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction(read_only=True) as tx:
        running = tx.jobs.running(JobKind.TRAIN)
    stream, line = io.StringIO(), '{"message": "it trains"}\n'
    with (
        ray_that_knows_ended_jobs([line]) as jobs,
        AttemptFollower(jobs, local_catalog, Away(tmp_path / "store"), stream) as follower,
    ):
        follower.watch(running)
        wait_until(stream.getvalue, "the line")
    assert stream.getvalue() == line
