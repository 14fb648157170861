"""A catalog that is away for longer than a lease costs a training nothing."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phema.services.trainer.attempt import TrainingAttempt, load_attempt
from phema.services.trainer.control.heartbeat import hold_lease
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogUnreachable, JobKind, JobState
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.snapshots import ObjectInfo, ObjectMissing, ObjectStore
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.object_keys import run_key
from phema.shared.telemetry import Meters, metrics
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


class Interrupted(LocalStore):
    """A real store whose catalog is away from the first object on. `deleting`: meanwhile, another process deletes the
    first snapshot, which an ended job had listed; then the catalog is back."""

    def __init__(self, folder: Path, to_catalog: Tunnel, deleting: Catalog | None = None) -> None:
        super().__init__(folder)
        self._way, self._deleting = to_catalog, deleting

    def put(self, key: str, data: Any) -> ObjectInfo:
        if key.endswith("/run.json"):
            self._way.down()
        info = super().put(key, data)
        if self._deleting is not None and "/snapshots/" in key:
            assert delete_listed(self._deleting, self) == 1
            self._deleting = None
            self._way.up()
        return info


def objects_and_rows(catalog: Catalog, store: ObjectStore, run_id: str) -> tuple[set[str], set[str]]:
    with catalog.transaction(read_only=True) as tx:
        rows = {s.key for s in tx.snapshots.list(run_id)} | {c.key for c in tx.checkpoints.all_but_latest(run_id, 0)}
    return {info.key for info in store.list()} - {run_key(run_id)}, rows


@only("postgres")
def test_what_was_stored_during_an_outage_and_never_named_is_listed_by_the_next_attempt(
    catalog: Catalog, remote: Catalog, to_catalog: Tunnel, tmp_path: Path
) -> None:
    """That attempt is cancelled after its first step, so it writes none of these objects again."""
    attempt = claim_locally(tiny_config(), catalog)
    store = Interrupted(tmp_path / "store", to_catalog)
    with pytest.raises(CatalogUnreachable):
        train_attempt(attempt, remote, store, outage_s=0.5)
    to_catalog.up()
    assert len(objects_and_rows(catalog, store, attempt.run_id)[0]) > 2
    with catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
        job = tx.leases.claim([JobKind.TRAIN], owner="next", lease_seconds=3600.0)
        assert job is not None
        tx.jobs.request_cancel(job.id)
    following = load_attempt(catalog, job.id, job.fence)
    train_attempt(following, catalog, LocalStore(tmp_path / "store"))
    with catalog.transaction() as tx:
        assert finish_job(tx, following) is JobState.CANCELLED
    delete_listed(catalog, store)
    objects, rows = objects_and_rows(catalog, store, attempt.run_id)
    assert objects == rows, "also the notes are gone"
    assert len(rows) == 1


@only("postgres")
def test_no_row_names_an_object_that_was_deleted_during_an_outage(
    catalog: Catalog, remote: Catalog, to_catalog: Tunnel, tmp_path: Path
) -> None:
    config = tiny_config()
    first = claim_locally(config, catalog)
    train_attempt(first, catalog, LocalStore(tmp_path / "reference"))
    with catalog.transaction() as tx:
        snapshot = min(tx.snapshots.list(first.run_id), key=lambda row: row.num_images)
        rows = [*tx.snapshots.list(first.run_id)]
        tx.snapshots.retire(row.id for row in rows)
        tx.snapshots.remove(row.id for row in rows)
        for checkpoint in tx.checkpoints.all_but_latest(first.run_id, 0):
            tx.checkpoints.delete(checkpoint.id)
        tx.deletions.expect(first.job_id, [snapshot.key])
        tx.leases.fail(first.job_id, first.fence, "It died before it wrote the row.", retry=False)
        run = tx.run_control.resume(first.run_id)
        job = tx.leases.claim([JobKind.TRAIN], owner="next", lease_seconds=3600.0)
    assert job is not None
    assert job.id == run.job_id != first.job_id
    store = Interrupted(tmp_path / "store", to_catalog, deleting=catalog)
    with pytest.raises(ObjectMissing, match="was deleted before its row was written"):
        train_attempt(load_attempt(catalog, job.id, job.fence), remote, store)
    objects, named = objects_and_rows(catalog, store, run.id)
    assert named <= objects
    assert snapshot.key not in objects


class CutAfterTheRow(Meters):
    """Cuts the catalog off once the row of the second checkpoint is written, until an upload is tried again."""

    def __init__(self, to_catalog: Tunnel) -> None:
        super().__init__("training")
        self._way, self._checkpoints = to_catalog, 0
        self.is_cut = False

    def add(self, metric: metrics.Metric, amount: float = 1.0, **labels: str) -> None:
        super().add(metric, amount, **labels)
        if metric is metrics.CHECKPOINT_BYTES:
            self._checkpoints += 1
            if self._checkpoints == 2:
                self.is_cut = True
                self._way.down()
        if metric is metrics.UPLOAD_RETRIES:
            self._way.up()


@only("postgres")
def test_a_checkpoint_that_is_registered_again_after_an_outage_counts_once(
    catalog: Catalog, remote: Catalog, to_catalog: Tunnel, tmp_path: Path
) -> None:
    config = tiny_config(snapshot_every=80, checkpoint_every=80)
    attempt, meters = claim_locally(config, catalog), CutAfterTheRow(to_catalog)
    store = LocalStore(tmp_path / "store")
    train(attempt, catalog=remote, store=store, group=WorkerGroup(), meters=meters, checkpoints_kept=1, outage_s=60)
    assert meters.is_cut
    with catalog.transaction(read_only=True) as tx:
        assert [c.num_images for c in tx.checkpoints.all_but_latest(attempt.run_id, 0)] == [320]
    value = meters.registry.get_sample_value
    assert value("phema_checkpoints_uploaded_total", {"run_id": attempt.run_id}) == 4


def has_run_out(catalog: Catalog, attempt: TrainingAttempt) -> bool:
    with catalog.transaction(read_only=True) as tx:
        expires_at = tx.jobs.get(attempt.job_id).lease_expires_at
    assert expires_at is not None
    return expires_at < catalog.now()
