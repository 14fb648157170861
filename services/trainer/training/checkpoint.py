"""Checkpoints: the complete state of a run, from which it resumes bit for bit. Loaded with `weights_only=True`."""

from __future__ import annotations

import hashlib
import io
import logging
from typing import Any

import torch
from torch import Tensor

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, Checkpoint
from phema.shared.snapshots import CorruptObject, ObjectMissing, ObjectStore

FORMAT = 1
"""Version of the file format."""
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint belongs to another run or configuration, or has another format."""


def copy_to_cpu(value: Any) -> Any:
    """A copy of `value` with every tensor on the CPU, also those in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(item) for item in value)
    return value


def encode_checkpoint(state: dict[str, Any], attempt: TrainingAttempt) -> memoryview:
    """The bytes of a checkpoint file. `state` is `TrainingState.state_dict()`, copied to the CPU."""
    file = io.BytesIO()
    header = {"format": FORMAT, "run_id": attempt.run_id, "config_hash": attempt.config_hash}
    torch.save({**header, "state": state}, file)
    return file.getbuffer()


def decode_checkpoint(data: bytes, attempt: TrainingAttempt) -> dict[str, Any]:
    """The `TrainingState.state_dict()` in a checkpoint file. Raises CheckpointError when it is not of this run."""
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    wanted = {"format": FORMAT, "run_id": attempt.run_id, "config_hash": attempt.config_hash}
    for field, value in wanted.items():
        if found.get(field) != value:
            raise CheckpointError(f"the checkpoint's {field} is {found.get(field)!r}, not {value!r}")
    state: dict[str, Any] = found["state"]
    return state


def resume(
    state: TrainingState, attempt: TrainingAttempt, *, catalog: Catalog, store: ObjectStore, group: WorkerGroup
) -> None:
    """Load the run's latest undamaged checkpoint into `state`; without one, leave `state` as it is.

    Every worker must call it. A checkpoint whose object is missing or damaged is deleted, and the one before it is
    loaded. Raises CheckpointError, and WorkerGroupMismatch when the workers loaded different checkpoints.
    """
    broken: list[Checkpoint] = []
    with catalog.transaction(read_only=True) as tx:
        newest_first = tx.checkpoints.all_but_latest(attempt.run_id, 0)[::-1]
    for checkpoint in newest_first:
        try:
            data = _read(store, checkpoint)
        except (ObjectMissing, CorruptObject) as error:
            _log.warning("trying the previous checkpoint: %s", error, extra={"num_images": checkpoint.num_images})
            broken.append(checkpoint)
            continue
        state.load_state_dict(decode_checkpoint(data, attempt))
        _log.info("resumed", extra={"num_images": state.num_images, "key": checkpoint.key})
        break
    group.check_same(state.num_images, "checkpoints")
    if group.is_first:
        for checkpoint in broken:
            delete_checkpoint(checkpoint, attempt, catalog=catalog, store=store)


def delete_checkpoint(
    checkpoint: Checkpoint, attempt: TrainingAttempt, *, catalog: Catalog, store: ObjectStore
) -> None:
    """Delete a checkpoint: first its row, so that every row has its object. Raises LeaseLost."""
    with attempt.fenced_transaction(catalog) as (tx, _):
        tx.checkpoints.delete(checkpoint.id)
    store.delete(checkpoint.key)


def _read(store: ObjectStore, checkpoint: Checkpoint) -> bytes:
    data = store.get(checkpoint.key)
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CorruptObject(f"object {checkpoint.key} in {store.url} is not what was written: its SHA-256 differs")
    return data
