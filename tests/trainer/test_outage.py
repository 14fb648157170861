"""A catalog that is away for longer than a lease costs a training nothing."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from phema.shared.snapshots import ObjectInfo
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.fixtures.catalog import only
from tests.fixtures.postgres import PostgresServer
from tests.servers.tunnel import Tunnel, tunnel
from tests.trainer.support import tiny_config, wait_until


@pytest.fixture
def to_catalog(postgres_server: PostgresServer) -> Iterator[Tunnel]:
    with tunnel(postgres_server.port) as way:
        yield way


@pytest.fixture
def remote(catalog_url: str, postgres_server: PostgresServer, to_catalog: Tunnel) -> Iterator[Catalog]:
    """The catalog as processes behind the tunnel see it."""
    catalog = Catalog(catalog_url.replace(f":{postgres_server.port}/", f":{to_catalog.port}/"))
    yield catalog
    catalog.close()


class LastStatus(logging.Handler):
    """Sees the log line which tells that the last status could not be written."""

    def __init__(self, total_images: int) -> None:
        super().__init__()
        self._total, self.missed = total_images, threading.Event()
        logging.getLogger("phema").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "num_images", None) == self._total and "waits for the catalog" in record.msg:
            self.missed.set()
            logging.getLogger("phema").removeHandler(self)


class CutOff(LocalStore):
    """A real store that cuts the catalog off when the first snapshot is stored, until the last object is."""

    def __init__(self, folder: Path, to_catalog: Tunnel, total_images: int) -> None:
        super().__init__(folder)
        self._way, self._last = to_catalog, f"/checkpoints/{total_images:012d}"
        self._last_status = LastStatus(total_images)
        self.is_cut = False

    def put(self, key: str, data: Any) -> ObjectInfo:
        info = super().put(key, data)
        if "/snapshots/" in key and not self.is_cut:
            self._way.down()
            self.is_cut = True
        if self._last in key:
            self._last_status.missed.wait(60)
            self._way.up()
        return info


@only("postgres")
def test_a_run_whose_catalog_is_away_from_the_first_snapshot_to_the_last_loses_nothing(
    catalog: Catalog, remote: Catalog, to_catalog: Tunnel, tmp_path: Path
) -> None:
    """It trains on, stores everything, and writes all rows when the catalog is back: after its last status."""
    config = tiny_config(snapshot_every=16, checkpoint_every=320, status_every=16)
    attempt = claim_locally(config, catalog)
    store = CutOff(tmp_path / "store", to_catalog, config.total_images)
    train_attempt(attempt, remote, store)
    assert store.is_cut
    assert store._last_status.missed.is_set()
    with catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.SUCCEEDED
        assert len(tx.snapshots.list(attempt.run_id)) == 2 * 20
        assert [row.num_images for row in tx.history.list(attempt.run_id, limit=100).items] == list(range(16, 321, 16))


@only("postgres")
def test_an_outage_longer_than_the_lease_ends_no_attempt(catalog: Catalog, remote: Catalog, to_catalog: Tunnel) -> None:
    attempt = claim_locally(tiny_config(), catalog)
    lease_s = 1.0
    expiry = LeaseExpiry(remote, [JobKind.TRAIN], lease_s=lease_s)
    told: queue.Queue[str] = queue.Queue()
    with hold_lease(attempt, remote, interval_s=0.05, lease_s=lease_s, outage_s=3600, on_lost=told.put):
        # The trainer has been in touch for a lease.
        wait_until(lambda: expiry.expire() == [] and expiry._last_look - expiry._in_touch_since > lease_s, "touch")
        to_catalog.down()
        wait_until(lambda: has_run_out(catalog, attempt), "the end of the lease")
        to_catalog.up()
        # The trainer looks at once, before the driver has had time for a heartbeat.
        assert expiry.expire() == []
        wait_until(lambda: expiry.expire() != [] or not has_run_out(catalog, attempt), "a heartbeat")
    assert told.empty()
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(attempt.job_id)
    assert (job.state, job.fence) == (JobState.RUNNING, attempt.fence)


def has_run_out(catalog: Catalog, attempt: TrainingAttempt) -> bool:
    with catalog.transaction(read_only=True) as tx:
        expires_at = tx.jobs.get(attempt.job_id).lease_expires_at
    assert expires_at is not None
    return expires_at < catalog.now()
