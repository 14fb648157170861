"""Checkpoints: the complete state of a run, from which it resumes bit for bit. Loaded with `weights_only=True`.

A checkpoint of a large network holds tens of gigabytes. So it is never whole in memory as bytes: it is encoded into a
temporary file, and read by the first worker alone, which maps the file into memory and sends the tensors to the others.
"""

from __future__ import annotations

import errno
import io
import logging
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogUnreachable, Checkpoint
from phema.shared.recipes.run_config import hash_of_document, hash_without_length
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.snapshots import CorruptObject, ObjectMissing, ObjectStore, SnapshotError, StoreFull
from phema.shared.snapshots.files.snapshot_file import load_tensors
from phema.shared.snapshots.stores.verification import digest

FORMAT = 1
"""Version of the file format."""
READ_BYTES = 2**24
"""A checkpoint is read in blocks of this size."""
WAIT_SECONDS = 60.0
"""Interval at which the first worker tells the others that it is still reading: NCCL gives up after 10 minutes."""
_NO_CHECKPOINT, _STILL_READING = -1, -2
"""Broadcast instead of a number of images."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint belongs to another run or configuration, or has another format."""


def copy_to_cpu(value: Any) -> Any:
    """A copy of `value` with every tensor on the CPU, also those in nested dicts, lists and tuples."""
    return _map_tensors(value, lambda tensor: tensor.detach().to("cpu", copy=True))


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change(tensor)` for every tensor, also those in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(item, change) for item in value)
    return value


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of a nested state, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_of(item)


def encode_checkpoint(state: dict[str, Any], attempt: TrainingAttempt) -> memoryview:
    """The bytes of a checkpoint file. `state` is `TrainingState.state_dict()`, copied to the CPU.

    They are the pages of a temporary file, which goes with the last reference to them. Without room for such a file,
    they are in memory.
    """
    try:
        with temporary_space("a checkpoint"), tempfile.TemporaryFile(prefix="phema-checkpoint-") as file:
            _save(state, attempt, file)
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except StoreFull as error:
        _log.warning("the checkpoint is encoded in memory: %s", error)
    buffer = io.BytesIO()
    _save(state, attempt, buffer)
    return buffer.getbuffer()


def _save(state: dict[str, Any], attempt: TrainingAttempt, file: IO[bytes]) -> None:
    header = {
        "format": FORMAT,
        "run_id": attempt.run_id,
        "config_hash": attempt.config_hash,
        "training_hash": hash_without_length(attempt.document),
    }
    torch.save({**header, "state": state}, file)


def decode_checkpoint(data: bytes | Path, attempt: TrainingAttempt) -> dict[str, Any]:
    """The `TrainingState.state_dict()` in a checkpoint file. Raises CheckpointError when it is not of this run.

    Given a path, the tensors are mapped from the file: it is not copied, and must not change as long as they exist.
    """
    return _decode(data, attempt.run_id, lambda found: _wanted_hash(found, attempt))


def decode_foreign_checkpoint(data: Path, run_id: str) -> dict[str, Any]:
    """As `decode_checkpoint`, for the checkpoint of another run, of any configuration."""
    return _decode(data, run_id, lambda found: {})


def _decode(
    data: bytes | Path, run_id: str, further: Callable[[Mapping[str, Any]], Mapping[str, str]]
) -> dict[str, Any]:
    """`further`: other fields that the file must have, and their values."""
    file = data if isinstance(data, Path) else io.BytesIO(data)
    mapped = isinstance(data, Path)
    found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    for field, value in {"format": FORMAT, "run_id": run_id, **further(found)}.items():
        if found.get(field) != value:
            raise CheckpointError(f"the checkpoint's {field} is {found.get(field)!r}, not {value!r}")
    state: dict[str, Any] = found["state"]
    return state


def _wanted_hash(found: Mapping[str, Any], attempt: TrainingAttempt) -> dict[str, str]:
    """The hash that a checkpoint of the run has. The run may have had another length when it was written."""
    if "training_hash" in found:
        return {"training_hash": hash_without_length(attempt.document)}
    # Older checkpoints have the hash of the whole configuration alone.
    for length in attempt.earlier_lengths:
        if found.get("config_hash") == hash_of_document({**attempt.document, "total_images": length}):
            return {}
    return {"config_hash": attempt.config_hash}


def resume(
    state: TrainingState, attempt: TrainingAttempt, *, catalog: Catalog, store: ObjectStore, group: WorkerGroup
) -> None:
    """Load the run's latest undamaged checkpoint into `state`; without one, a fork loads what it begins from, and
    every other run leaves `state` as it is.

    Every worker must call it. The first worker reads the checkpoint and sends it to the others, which need no access to
    the store. A checkpoint whose object is missing or damaged is deleted, and the one before it is loaded. Raises
    CheckpointError.
    """
    if group.is_first:
        _load_latest(state, attempt, catalog, store, group)
    else:
        _receive(state, attempt, group)


def _load_latest(
    state: TrainingState, attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore, group: WorkerGroup
) -> None:
    broken: list[Checkpoint] = []
    with catalog.transaction(read_only=True) as tx:
        newest_first = tx.checkpoints.all_but_latest(attempt.run_id, 0)[::-1]
    still_reading = _Reminder(group)
    for checkpoint in newest_first:
        try:
            with verified_file(store, checkpoint.key, checkpoint.sha256, still_reading) as path:
                found = decode_checkpoint(path, attempt)
                state.load_state_dict(found)
                _send(state, found, attempt, group)
        except (ObjectMissing, CorruptObject) as error:
            _log.warning("trying the previous checkpoint: %s", error, extra={"num_images": checkpoint.num_images})
            broken.append(checkpoint)
            continue
        _log.info("resumed", extra={"num_images": state.num_images, "key": checkpoint.key})
        break
    else:
        if attempt.parent is None:
            group.broadcast_from_first(_NO_CHECKPOINT)
        else:
            with fork_origin(state, attempt.parent, store, still_reading) as found:
                _send(state, found, attempt, group)
    delete_checkpoints(broken, attempt, catalog=catalog, store=store)


class _Reminder:
    """Tells the other workers about every WAIT_SECONDS that they must wait on. Called between two blocks."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group, self._last = group, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last > WAIT_SECONDS:
            self._group.broadcast_from_first(_STILL_READING)
            self._last = time.monotonic()


def _send(state: TrainingState, found: dict[str, Any], attempt: TrainingAttempt, group: WorkerGroup) -> None:
    """Send a loaded checkpoint: first everything but the values of the tensors, then these, one by one."""
    if group.world_size == 1:
        return
    group.broadcast_from_first(state.num_images)
    outline = io.BytesIO()
    # A tensor that repeats one zero keeps its shape and dtype, and takes four bytes in the file.
    _save(_map_tensors(found, lambda t: torch.zeros((), dtype=t.dtype).expand(t.shape)), attempt, outline)
    group.broadcast_bytes_from_first(outline.getvalue())
    for tensor in _tensors_of(state.state_dict()):
        group.broadcast_tensor_(tensor)


def _receive(state: TrainingState, attempt: TrainingAttempt, group: WorkerGroup) -> None:
    while (num_images := group.broadcast_from_first(_STILL_READING)) == _STILL_READING:
        pass
    if num_images == _NO_CHECKPOINT:
        return
    outline = group.broadcast_bytes_from_first(b"")
    state.load_state_dict(decode_checkpoint(outline, attempt))
    for tensor in _tensors_of(state.state_dict()):
        group.broadcast_tensor_(tensor)


@contextmanager
def fork_origin(
    state: TrainingState, parent: dict[str, Any], store: ObjectStore, on_block: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """Load what a fork begins from into `state`, and yield it as a `TrainingState.state_dict()`.

    From a checkpoint of the other run everything continues. From a reconstruction come the weights alone. Raises
    CheckpointError when the object is missing or damaged: the fork must not begin with random weights instead.
    """
    key, run_id = str(parent["key"]), str(parent["run_id"])
    try:
        with verified_file(store, key, str(parent["sha256"]), on_block) as path:
            if parent.get("reconstruction_id") is None:
                found = decode_foreign_checkpoint(path, run_id)
                # The fork may train on other data, on purpose.
                found.pop("dataset", None)
                state.load_state_dict(found)
            else:
                state.begin_with(load_tensors(path))
                found = state.state_dict()
            _log.info("a fork begins", extra={"num_images": state.num_images, "key": key})
            yield found
    except (ObjectMissing, CorruptObject) as error:
        raise CheckpointError(f"the run cannot begin from run {run_id}: {error}") from error


def delete_checkpoints(
    checkpoints: list[Checkpoint],
    attempt: TrainingAttempt,
    *,
    catalog: Catalog,
    store: ObjectStore,
    keep_for_forks: bool = False,
) -> None:
    """Remove the rows of checkpoints, then delete their objects, which are on the list of deletions meanwhile.

    `keep_for_forks`: keep those from which a fork without a checkpoint of its own begins. Raises LeaseLost. A store
    that cannot delete now is logged; phema workers delete listed objects later.
    """
    if not checkpoints:
        return
    with catalog.transaction() as tx:
        # In this order, as requests do. A request for a fork holds the run's lock when it chooses a checkpoint.
        tx.runs.lock(attempt.run_id)
        tx.leases.assert_fence(attempt.job_id, attempt.fence)
        needed = tx.run_forks.needed_keys(attempt.run_id) if keep_for_forks else set()
        checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint.key not in needed]
        for checkpoint in checkpoints:
            tx.checkpoints.delete(checkpoint.id)
        tx.deletions.release([checkpoint.key for checkpoint in checkpoints])
    if not checkpoints:
        return
    try:
        delete_listed(catalog, store, [checkpoint.key for checkpoint in checkpoints])
    except (SnapshotError, CatalogUnreachable) as error:
        _log.warning("a checkpoint is deleted later: %s", error)


@contextmanager
def verified_file(store: ObjectStore, key: str, sha256: str, on_block: Callable[[], object]) -> Iterator[Path]:
    """A local file with an object's bytes: the object's own, or a temporary copy that no kill leaves behind.

    `on_block` is called after every block. Raises ObjectMissing, and CorruptObject when the bytes are not those that
    were written.
    """
    path = store.local_path(key)
    with temporary_space(f"object {key}"), tempfile.TemporaryFile(prefix="phema-checkpoint-") as copy:

        def keep(start: int, block: memoryview) -> None:
            if path is None:
                copy.write(block)
            on_block()

        found = digest(store, key, block_bytes=READ_BYTES, on_block=keep)
        if found.sha256 != sha256:
            raise CorruptObject(f"object {key} in {store.url} is not what was written: its SHA-256 differs")
        copy.flush()
        yield path or Path(f"/dev/fd/{copy.fileno()}")


@contextmanager
def temporary_space(what: str) -> Iterator[None]:
    """Raises StoreFull when the temporary folder has no room for `what`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError of its own after the error of the file.
        cause = next((e for e in (error, error.__context__) if isinstance(e, OSError) and e.errno in _FULL), None)
        if cause is None:
            raise
        folder = tempfile.gettempdir()
        raise StoreFull(
            f"folder {folder} has no room for {what} ({cause.strerror}): free some, or set TMPDIR to another folder"
        ) from error
