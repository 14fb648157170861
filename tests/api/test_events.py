"""Server-sent events say what changes, to every viewer, and cost nothing without viewers."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

import httpx
import pytest

from phema.services.api.events.change_detector import ChangeDetector
from phema.shared.catalog import Catalog, JobKind
from phema.shared.settings import Settings
from tests.api import seed
from tests.api.process import ApiProcess, running
from tests.fixtures.catalog import only

WAIT_SECONDS = 30.0


class Viewer:
    """One open stream, read by a thread."""

    def __init__(self, url: str) -> None:
        self._events: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._client = httpx.Client(timeout=60)
        self._thread = threading.Thread(target=self._read, args=(url,), daemon=True)
        self._thread.start()

    def _read(self, url: str) -> None:
        kind = ""
        with self._client.stream("GET", url) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    self._events.put((kind, json.loads(value)))
        self._events.put(None)

    def next(self) -> tuple[str, Any] | None:
        """The next event and its data; None at the end of the stream."""
        return self._events.get(timeout=WAIT_SECONDS)

    def job_in(self, state: str) -> Any:
        """The next job in this state."""
        while (event := self.next()) is not None:
            if event[0] == "job" and event[1]["job"]["state"] == state:
                return event[1]["job"]
        raise AssertionError("the stream ended")

    def close(self) -> None:
        """Wait for the end of the stream, which its server brings about."""
        self._thread.join(WAIT_SECONDS)
        self._client.close()


def watching(api: ApiProcess, path: str) -> Viewer:
    viewer = Viewer(api.url + path)
    assert viewer.next() == ("resync", {"kind": "resync", "run_id": None, "job": None, "run": None})
    return viewer


def test_a_viewer_sees_a_job_from_its_creation_to_its_end(catalog: Catalog, settings: Settings) -> None:
    with running(settings) as api:
        viewer = watching(api, "/v1/events")
        run = seed.run(catalog)
        queued = viewer.job_in("queued")
        assert (queued["kind"], queued["run_id"], queued["progress"]) == ("train", run.id, 0)
        job = seed.claim(catalog, JobKind.TRAIN)
        assert viewer.job_in("running")["id"] == job.id
        with catalog.transaction() as tx:
            tx.history.put(run.id, 640, {"loss": 0.5})
            tx.runs.set_progress(run.id, 640)
        while (event := viewer.next()) is not None and (event[0] != "run" or event[1]["run"]["history_at"] == 0):
            pass
        assert event is not None
        assert event[1]["run"] == {"run_id": run.id, "num_images": 640, "history_at": 640, "snapshot_at": 0}
        with catalog.transaction() as tx:
            tx.leases.succeed(job.id, job.fence, {})
        assert viewer.job_in("succeeded")["id"] == job.id
        api.stop()
        viewer.close()


@only("sqlite")
def test_a_viewer_of_a_run_sees_that_run_alone(catalog: Catalog, settings: Settings) -> None:
    one = seed.run(catalog, "one")
    with running(settings) as api:
        viewers = [watching(api, "/v1/runs/one/events"), watching(api, f"/v1/events?run={one.id}")]
        seed.run(catalog, "two")
        seed.claim(catalog, JobKind.TRAIN)  # the older run comes first
        for viewer in viewers:
            kind, data = viewer.next() or ("", {})
            assert (kind, data["run_id"]) == ("job", one.id)
        assert httpx.get(f"{api.url}/v1/events?run=none").status_code == 422
        assert httpx.get(f"{api.url}/v1/runs/none/events").status_code == 404
        code, _, log = api.stop()  # two streams are still open
        assert code == 0
        assert '"level": "error"' not in log
        for viewer in viewers:
            viewer.close()


@only("sqlite")
def test_jobs_that_end_between_two_looks_are_not_missed(catalog: Catalog) -> None:
    with catalog.transaction(read_only=True) as tx:
        detector = ChangeDetector(tx, catalog.now())
    run = seed.run(catalog)
    job = seed.claim(catalog, JobKind.TRAIN)
    with catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
    with catalog.transaction(read_only=True) as tx:
        seen = [(one.kind, one.job and one.job.state) for one in detector.look(tx, catalog.now())]
        assert seen == [("job", "succeeded"), ("run", None)]
        assert detector.look(tx, catalog.now()) == []
    with catalog.transaction() as tx:
        tx.runs.set_progress(run.id, 10)
    with catalog.transaction(read_only=True) as tx:
        assert [one.kind for one in detector.look(tx, catalog.now())] == ["run"]


def test_only_what_was_written_rings(catalog: Catalog) -> None:
    with catalog.listening_for_changes() as bell:
        with catalog.transaction() as tx:
            tx.runs.all()
        with catalog.transaction(read_only=True) as tx:
            tx.runs.all()
        with catalog.transaction() as tx:
            assert tx.leases.claim([JobKind.TRAIN], owner="idle", lease_seconds=60) is None
        assert not bell.drain()
        seed.run(catalog)
        deadline = time.monotonic() + WAIT_SECONDS
        while not bell.drain():
            assert time.monotonic() < deadline
        with pytest.raises(RuntimeError, match="rolled back"):
            roll_back(catalog)
        assert not bell.drain()


def roll_back(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        tx.jobs.enqueue(JobKind.TRAIN, payload={}, content_key="x")
        raise RuntimeError("rolled back")
