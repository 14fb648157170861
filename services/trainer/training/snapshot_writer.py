"""Writes a run's snapshots and checkpoints in the background and registers each one once it is durable."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self, cast

from torch import Tensor

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.checkpoint import copy_to_cpu, delete_checkpoints, encode_checkpoint
from phema.services.trainer.training.listing_store import ListingStore
from phema.services.trainer.training.tracked_averages import profile_of, tracked_profiles
from phema.services.trainer.training.training_state import TrainingState
from phema.shared.catalog import (
    BeingDeleted,
    Catalog,
    CatalogError,
    CatalogUnreachable,
    Checkpoint,
    Snapshot,
    Transaction,
)
from phema.shared.snapshots import (
    CorruptObject,
    ObjectInfo,
    ObjectStore,
    StoreFull,
    StoreUnreachable,
)
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.background_uploader import BackgroundUploader, Produce, Register
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes
from phema.shared.snapshots.stores.object_keys import checkpoint_key, run_key, snapshot_key
from phema.shared.telemetry import Meters, metrics

CHECKPOINTS_KEPT = 2
"""The latest checkpoints of a run that are kept by default; older ones are deleted, except pinned ones."""
OUTAGE_SECONDS = 60.0
"""Default time for which an upload is retried; services have a setting for it."""
CANCELLED_PATIENCE_SECONDS = 60.0
"""Time for which a cancelled or paused run still retries uploads to a store that fails."""
STORE_ERRORS = (StoreUnreachable, StoreFull, CorruptObject, BeingDeleted)
TRANSIENT = (*STORE_ERRORS, CatalogUnreachable)
"""Errors after which an upload is retried."""
_log = logging.getLogger(__name__)


class SnapshotWriter:
    """Writes snapshots and checkpoints to the store and the catalog. Only the run's first worker has one.

    The loop itself only copies the tensors off the device. Encoding, upload and registration happen in the background,
    in order, so a checkpoint is registered only after every snapshot before it and a resumed run skips none. While the
    catalog cannot be reached, uploads go on and their rows wait; while the store cannot be reached, the loop waits once
    the objects of two snapshot times are in memory. Both for at most `outage_s`.

    A snapshot that an earlier attempt registered is not written again. Nor is one that retention has deleted since,
    because retention deletes nothing later than the oldest remaining checkpoint. Leaving the `with` block without an
    error waits for all uploads; the error of a failed upload is raised there, or by the next `write_due` or `check`.
    After `hurry`, an error of the store is logged instead, and nothing more is written.
    """

    def __init__(
        self,
        attempt: TrainingAttempt,
        *,
        catalog: Catalog,
        store: ObjectStore,
        meters: Meters,
        checkpoints_kept: int = CHECKPOINTS_KEPT,
        outage_s: float = OUTAGE_SECONDS,
    ) -> None:
        self._attempt, self._catalog, self._store, self._meters = attempt, catalog, store, meters
        self._checkpoints_kept = checkpoints_kept
        # Not None: the first report clears what an earlier worker of the attempt has left in the row.
        self._trouble: str | None = ""
        self._run = attempt.run_id
        self._last_checkpoint = self._counted_checkpoint = -1
        self._hurried = threading.Event()
        with catalog.transaction(read_only=True) as tx:
            self._registered = {(s.num_images, profile_of(s)) for s in tx.snapshots.list(attempt.run_id)}
        # Room for the objects of two snapshot times: the loop waits only if the store is a whole interval behind.
        self._listing = ListingStore(attempt, catalog, store)
        self._listing.list_left()
        self._uploader = BackgroundUploader(
            cast(ObjectStore, self._listing),
            max_pending=2 * (len(tracked_profiles(attempt.config)) + 1),
            patience_s=outage_s,
            transient=TRANSIENT,
            on_retry=self._on_retry,
            on_wait=self._count_stall,
        )
        self._stalled_since = 0.0
        self._begin_metrics()
        # The first object: `phema db rebuild` restores a lost catalog from it and the snapshots.
        self._uploader.submit(lambda: (run_key(attempt.run_id), _run_document(attempt)), lambda info: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._unless_hurried():
            self._uploader.__exit__(kind, error, trace)
        self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending, run_id=self._run)

    def _begin_metrics(self) -> None:
        for counter in (metrics.SNAPSHOTS_UPLOADED, metrics.SNAPSHOT_BYTES, metrics.SNAPSHOT_STALL_SECONDS):
            self._meters.begin(counter, run_id=self._run)
        for counter in (metrics.CHECKPOINTS_UPLOADED, metrics.CHECKPOINT_BYTES):
            self._meters.begin(counter, run_id=self._run)
        for cause in ("catalog", "store"):
            self._meters.begin(metrics.UPLOAD_RETRIES, run_id=self._run, cause=cause)
        for kind in ("snapshot", "checkpoint"):
            self._meters.begin(metrics.UPLOAD_SECONDS, run_id=self._run, kind=kind)

    def hurry(self) -> None:
        """The run should stop: give a store that fails CANCELLED_PATIENCE_SECONDS, then stop without what is pending.

        Thread-safe, and may be called twice.
        """
        self._hurried.set()
        self._uploader.hurry(CANCELLED_PATIENCE_SECONDS)

    @contextmanager
    def _unless_hurried(self) -> Iterator[None]:
        """After `hurry`, log errors of the store: all workers then stop together, without the last checkpoint."""
        try:
            yield
        except STORE_ERRORS as error:
            if not self._hurried.is_set():
                raise
            _log.warning("the run stops without what is not stored yet: %s", error)

    def check(self) -> None:
        """Raise the error of an upload that was given up, if there is one."""
        with self._unless_hurried():
            self._uploader.check()

    def is_due(self, num_images: int) -> bool:
        """Whether a snapshot or a checkpoint is due after the step that ends at `num_images`."""
        return self._snapshot_due(num_images) or self._checkpoint_due(num_images)

    def _snapshot_due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.snapshot_every == 0 or num_images == config.total_images

    def _checkpoint_due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.checkpoint_every == 0 or num_images == config.total_images

    def write_due(self, state: TrainingState) -> None:
        """Write what is due after the step that ended at `state.num_images`; waits if too many uploads are pending."""
        self._stalled_since = time.perf_counter()
        # Everything is copied before the first upload starts, which would slow the copying down.
        with self._unless_hurried():
            for kind, produce, register in self._copy_due(state):
                self._submit(kind, produce, register)
        self._count_stall()

    def _count_stall(self) -> None:
        """Add the stall so far to its metric. Also called during a wait, because an alert watches waits in progress."""
        now = time.perf_counter()
        self._meters.add(metrics.SNAPSHOT_STALL_SECONDS, now - self._stalled_since, run_id=self._run)
        self._stalled_since = now
        self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending, run_id=self._run)

    def write_checkpoint(self, state: TrainingState) -> None:
        """Write a checkpoint now unless this time has one, for a run that stops before its end and may be resumed."""
        if self._last_checkpoint != state.num_images:
            self._stalled_since = time.perf_counter()
            with self._unless_hurried():
                self._submit(*self._checkpoint(state))

    def _copy_due(self, state: TrainingState) -> list[tuple[str, Produce, Register]]:
        """Copy what is due to the CPU: the snapshots first, then the checkpoint, which must not precede them."""
        now = state.num_images
        due = []
        if self._snapshot_due(now):
            for profile, tensors in state.averages():
                if (now, profile) not in self._registered:
                    due.append(self._snapshot(state, profile, tensors))
        if self._checkpoint_due(now):
            due.append(self._checkpoint(state))
        return due

    def _snapshot(
        self, state: TrainingState, profile: Profile, average: dict[str, Tensor]
    ) -> tuple[str, Produce, Register]:
        metadata = self._metadata(state, profile)
        tensors: dict[str, Tensor] = copy_to_cpu(average)
        probe = b""

        def produce() -> tuple[str, HashedBytes]:
            nonlocal probe
            data = encode(tensors, metadata)
            probe = probe_of(data)
            content = HashedBytes(data)
            time = metadata.num_images
            return snapshot_key(self._run, num_images=time, label=profile.label, sha256=content.sha256), content

        return "snapshot", produce, lambda info: self._register_snapshot(metadata, info, probe)

    def _checkpoint(self, state: TrainingState) -> tuple[str, Produce, Register]:
        attempt, num_images = self._attempt, state.num_images
        self._last_checkpoint = num_images
        tensors: dict[str, Any] = copy_to_cpu(state.state_dict())

        def produce() -> tuple[str, HashedBytes]:
            content = HashedBytes(encode_checkpoint(tensors, attempt))
            return checkpoint_key(self._run, num_images=num_images, sha256=content.sha256), content

        return "checkpoint", produce, lambda info: self._register_checkpoint(num_images, info)

    def _submit(self, kind: str, produce: Produce, register: Register) -> None:
        begun = 0.0

        def timed_produce() -> tuple[str, Data | HashedBytes]:
            nonlocal begun
            begun = time.perf_counter()
            return produce()

        def timed_register(info: ObjectInfo) -> None:
            self._listing.list_late(info)
            register(info)
            self._report(None)
            seconds = time.perf_counter() - begun
            self._meters.observe(metrics.UPLOAD_SECONDS, seconds, kind=kind, run_id=self._run)
            # The uploader counts this object as pending until this function returns.
            self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending - 1, run_id=self._run)
            _log.info("%s is durable", kind, extra={"key": info.key, "size": info.size, "seconds": round(seconds, 3)})

        self._uploader.submit(timed_produce, timed_register)

    def _register_snapshot(self, metadata: SnapshotMetadata, info: ObjectInfo, probe: bytes) -> None:
        with self._attempt.fenced_transaction(self._catalog) as (tx, _):
            row, _ = tx.snapshots.add(
                run_id=metadata.run_id,
                num_images=metadata.num_images,
                profile=metadata.profile.model_dump(mode="json"),
                dtype=metadata.dtype,
                key=info.key,
                size=info.size,
                sha256=_sha256(info),
                probe=probe,
            )
            _take_off_list(tx, row, info)
        self._meters.add(metrics.SNAPSHOTS_UPLOADED, run_id=self._run)
        self._meters.add(metrics.SNAPSHOT_BYTES, info.size, run_id=self._run)

    def _register_checkpoint(self, num_images: int, info: ObjectInfo) -> None:
        attempt = self._attempt
        with attempt.fenced_transaction(self._catalog) as (tx, _):
            row, _ = tx.checkpoints.add(
                run_id=attempt.run_id, num_images=num_images, key=info.key, size=info.size, sha256=_sha256(info)
            )
            _take_off_list(tx, row, info)
            tx.leases.made_progress(attempt.job_id, attempt.fence)
            old = tx.checkpoints.surplus(attempt.run_id, self._checkpoints_kept)
        # The deletion below may not reach the catalog. This function is then called again for the same checkpoint.
        if self._counted_checkpoint != num_images:
            self._counted_checkpoint = num_images
            self._meters.add(metrics.CHECKPOINTS_UPLOADED, run_id=self._run)
            self._meters.add(metrics.CHECKPOINT_BYTES, info.size, run_id=self._run)
        delete_checkpoints(old, attempt, catalog=self._catalog, store=self._store, keep_for_forks=True)

    def _metadata(self, state: TrainingState, profile: Profile) -> SnapshotMetadata:
        return SnapshotMetadata(
            run_id=self._attempt.run_id,
            num_images=state.num_images,
            profile=profile,
            dtype=self._attempt.config.snapshot_dtype,
            buffers=state.buffers,
            code_version=version("phema"),
            config_hash=self._attempt.config_hash,
            config=self._attempt.document,
        )

    def _on_retry(self, error: Exception, delay_s: float) -> None:
        cause = "catalog" if isinstance(error, CatalogUnreachable) else "store"
        self._meters.add(metrics.UPLOAD_RETRIES, run_id=self._run, cause=cause)
        _log.warning("upload is tried again in %.1f s: %s", delay_s, error)
        self._report(f"an upload is tried again: {error}")

    def _report(self, trouble: str | None) -> None:
        """Show in the run's message what uploads wait for; None when they wait for nothing."""
        if trouble == self._trouble:
            return
        try:
            with self._catalog.transaction() as tx:
                tx.leases.set_trouble(self._attempt.job_id, self._attempt.fence, trouble)
        except CatalogError as error:
            _log.warning("the run's message does not say what uploads wait for: %s", error)
        else:
            self._trouble = trouble


def _take_off_list(tx: Transaction, row: Snapshot | Checkpoint, info: ObjectInfo) -> None:
    """Take a stored object off the list of deletions, unless the row names an object of an earlier attempt."""
    if row.key == info.key:
        tx.deletions.named([info.key])


def _run_document(attempt: TrainingAttempt) -> bytes:
    """The run's `run.json`; the same bytes from every attempt and every version of phema."""
    document: dict[str, Any] = {"id": attempt.run_id, "name": attempt.name, "config": attempt.document}
    if attempt.parent is not None:
        document["parent"] = attempt.parent
    return json.dumps(document, sort_keys=True, indent=1).encode()


def _sha256(info: ObjectInfo) -> str:
    assert info.sha256 is not None, "a store returns the hash of an object that it has just written"
    return info.sha256
