"""Snapshots and checkpoints, written behind the training loop's back and registered once durable."""

from __future__ import annotations

import json
import logging
import time
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from phema.services.trainer.control.attempt import Attempt
from phema.services.trainer.training.checkpoint import copied, encode_checkpoint, forget
from phema.services.trainer.training.tracked_averages import profile_of, tracked_profiles
from phema.services.trainer.training.training_state import TrainingState
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.snapshots import CorruptObject, ObjectInfo, ObjectStore, StoreUnreachable
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.background_uploader import BackgroundUploader, Produce, Register
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes
from phema.shared.snapshots.stores.object_keys import checkpoint_key, run_key, snapshot_key
from phema.shared.telemetry import Meters, metrics

CHECKPOINTS_KEPT = 2
TRANSIENT = (StoreUnreachable, CorruptObject, CatalogUnreachable)
_log = logging.getLogger(__name__)


class Archive:
    """The run's first worker's way to the store and the catalog.

    The loop pays for copying the tensors off the device; encoding, upload and the row happen in one other thread, in
    order. Hence a checkpoint is registered only after every snapshot before it, and no resume can skip one. A snapshot
    that an earlier attempt has registered is not written again; one that retention has given up since is neither,
    because it gives up nothing later than the oldest checkpoint that is left. Leaving the block without an error waits
    for all of it; a failed upload is raised there or by the next `keep`.
    """

    def __init__(self, attempt: Attempt, *, catalog: Catalog, store: ObjectStore, meters: Meters) -> None:
        self._attempt, self._catalog, self._store, self._meters = attempt, catalog, store, meters
        self._run = attempt.run_id
        self._checkpoint_at = -1
        with catalog.transaction(read_only=True) as tx:
            self._known = {(s.num_images, profile_of(s)) for s in tx.snapshots.list(attempt.run_id)}
        # Room for two times at once: the loop waits only when the store falls a whole interval behind.
        self._uploader = BackgroundUploader(
            store,
            max_pending=2 * (len(tracked_profiles(attempt.config)) + 1),
            transient=TRANSIENT,
            on_retry=self._on_retry,
            on_wait=self._count_stall,
        )
        self._stalled_since = 0.0
        for counter in (metrics.SNAPSHOTS_UPLOADED, metrics.SNAPSHOT_BYTES, metrics.SNAPSHOT_STALL_SECONDS):
            meters.begin(counter, run_id=self._run)
        for counter in (metrics.CHECKPOINTS_UPLOADED, metrics.CHECKPOINT_BYTES):
            meters.begin(counter, run_id=self._run)
        for cause in ("catalog", "store"):
            meters.begin(metrics.UPLOAD_RETRIES, run_id=self._run, cause=cause)
        for kind in ("snapshot", "checkpoint"):
            meters.begin(metrics.UPLOAD_SECONDS, run_id=self._run, kind=kind)
        # First of all: from it and the weights, `phema db rebuild` writes a lost catalog again.
        self._uploader.submit(lambda: (run_key(attempt.run_id), _description(attempt)), lambda info: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uploader.__exit__(kind, error, trace)
        self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending, run_id=self._run)

    def due(self, num_images: int) -> bool:
        """Whether the step that ends at `num_images` leaves something to keep."""
        return self._snapshot_due(num_images) or self._checkpoint_due(num_images)

    def _snapshot_due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.snapshot_every == 0 or num_images == config.total_images

    def _checkpoint_due(self, num_images: int) -> bool:
        config = self._attempt.config
        return num_images % config.checkpoint_every == 0 or num_images == config.total_images

    def keep(self, state: TrainingState) -> None:
        """Write what is due after the step that ended at `state.num_images`."""
        self._stalled_since = time.perf_counter()
        # Everything is copied before anything is handed over: the background would only slow the copying down.
        for kind, produce, register in self._copied(state):
            self._submit(kind, produce, register)
        self._count_stall()

    def _count_stall(self) -> None:
        """As it grows: an alert is about the wait that has not ended."""
        now = time.perf_counter()
        self._meters.add(metrics.SNAPSHOT_STALL_SECONDS, now - self._stalled_since, run_id=self._run)
        self._stalled_since = now
        self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending, run_id=self._run)

    def leave(self, state: TrainingState) -> None:
        """Write a checkpoint of a run that stops before its end: it may be resumed."""
        if self._checkpoint_at != state.num_images:
            self._stalled_since = time.perf_counter()
            self._submit(*self._checkpoint(state))

    def _copied(self, state: TrainingState) -> list[tuple[str, Produce, Register]]:
        """Snapshots first, then the checkpoint that must not precede them."""
        now = state.num_images
        due = []
        if self._snapshot_due(now):
            for profile, tensors in state.averages():
                if (now, profile) not in self._known:
                    due.append(self._snapshot(state, profile, tensors))
        if self._checkpoint_due(now):
            due.append(self._checkpoint(state))
        return due

    def _snapshot(
        self, state: TrainingState, profile: Profile, average: dict[str, Tensor]
    ) -> tuple[str, Produce, Register]:
        metadata = self._metadata(state, profile)
        tensors: dict[str, Tensor] = copied(average)
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
        self._checkpoint_at = num_images
        tensors: dict[str, Any] = copied(state.state_dict())

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
            register(info)
            seconds = time.perf_counter() - begun
            self._meters.observe(metrics.UPLOAD_SECONDS, seconds, kind=kind, run_id=self._run)
            # This one counts as pending until its registration returns.
            self._meters.set(metrics.UPLOADS_PENDING, self._uploader.counts.pending - 1, run_id=self._run)
            _log.info("%s is durable", kind, extra={"key": info.key, "size": info.size, "seconds": round(seconds, 3)})

        self._uploader.submit(timed_produce, timed_register)

    def _register_snapshot(self, metadata: SnapshotMetadata, info: ObjectInfo, probe: bytes) -> None:
        with self._attempt.writing(self._catalog) as (tx, _):
            tx.snapshots.add(
                run_id=metadata.run_id,
                num_images=metadata.num_images,
                profile=metadata.profile.model_dump(mode="json"),
                dtype=metadata.dtype,
                key=info.key,
                size=info.size,
                sha256=_sha256(info),
                probe=probe,
            )
        self._meters.add(metrics.SNAPSHOTS_UPLOADED, run_id=self._run)
        self._meters.add(metrics.SNAPSHOT_BYTES, info.size, run_id=self._run)

    def _register_checkpoint(self, num_images: int, info: ObjectInfo) -> None:
        attempt = self._attempt
        with attempt.writing(self._catalog) as (tx, _):
            tx.checkpoints.add(
                run_id=attempt.run_id, num_images=num_images, key=info.key, size=info.size, sha256=_sha256(info)
            )
            tx.jobs.made_progress(attempt.job_id, attempt.fence)
            old = tx.checkpoints.beyond(attempt.run_id, CHECKPOINTS_KEPT)
        self._meters.add(metrics.CHECKPOINTS_UPLOADED, run_id=self._run)
        self._meters.add(metrics.CHECKPOINT_BYTES, info.size, run_id=self._run)
        for checkpoint in old:
            forget(checkpoint, attempt, catalog=self._catalog, store=self._store)

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


def _description(attempt: Attempt) -> bytes:
    """What the store says of a run itself; the same bytes from every attempt and every version of phema."""
    document = {"id": attempt.run_id, "name": attempt.name, "config": attempt.document}
    return json.dumps(document, sort_keys=True, indent=1).encode()


def _sha256(info: ObjectInfo) -> str:
    assert info.sha256 is not None, "a store that has just written an object knows its hash"
    return info.sha256
