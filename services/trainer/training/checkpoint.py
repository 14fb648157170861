"""Checkpoints: everything a run needs to go on, bit for bit. Loaded without unpickling code."""

from __future__ import annotations

import hashlib
import io
import logging
from typing import Any

import torch
from torch import Tensor

from phema.services.trainer.control.attempt import Attempt
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import Group
from phema.shared.catalog import Catalog, Checkpoint
from phema.shared.snapshots import CorruptObject, ObjectMissing, ObjectStore

FORMAT = 1
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint is of another run, configuration or format."""


def copied(value: Any) -> Any:
    """`value` with every tensor copied to the CPU; dicts, lists and tuples are followed."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value


def encode_checkpoint(state: dict[str, Any], attempt: Attempt) -> memoryview:
    """The file of `TrainingState.state_dict()`, which must be on the CPU."""
    file = io.BytesIO()
    header = {"format": FORMAT, "run_id": attempt.run_id, "config_hash": attempt.config_hash}
    torch.save({**header, "state": state}, file)
    return file.getbuffer()


def decode_checkpoint(data: bytes, attempt: Attempt) -> dict[str, Any]:
    """The state in a checkpoint file. Raises CheckpointError when it is not one of this run's."""
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    wanted = {"format": FORMAT, "run_id": attempt.run_id, "config_hash": attempt.config_hash}
    for field, value in wanted.items():
        if found.get(field) != value:
            raise CheckpointError(f"the checkpoint's {field} is {found.get(field)!r}, not {value!r}")
    state: dict[str, Any] = found["state"]
    return state


def resume(state: TrainingState, attempt: Attempt, *, catalog: Catalog, store: ObjectStore, group: Group) -> None:
    """Bring `state` to the latest whole checkpoint of the run, on every worker; nothing happens without one.

    A checkpoint whose object is lost or damaged is forgotten, and the one before it is taken.
    """
    broken: list[Checkpoint] = []
    with catalog.transaction(read_only=True) as tx:
        newest_first = tx.checkpoints.all_but_latest(attempt.run_id, 0)[::-1]
    for checkpoint in newest_first:
        try:
            data = _read(store, checkpoint)
        except (ObjectMissing, CorruptObject) as error:
            _log.warning("going back one checkpoint: %s", error, extra={"num_images": checkpoint.num_images})
            broken.append(checkpoint)
            continue
        state.load_state_dict(decode_checkpoint(data, attempt))
        _log.info("resumed", extra={"num_images": state.num_images, "key": checkpoint.key})
        break
    group.check_same(state.num_images, "checkpoints")
    if group.is_first:
        for checkpoint in broken:
            forget(checkpoint, attempt, catalog=catalog, store=store)


def forget(checkpoint: Checkpoint, attempt: Attempt, *, catalog: Catalog, store: ObjectStore) -> None:
    """Delete a checkpoint: its row first, so that no row is ever without its object."""
    with attempt.writing(catalog) as (tx, _):
        tx.checkpoints.delete(checkpoint.id)
    store.delete(checkpoint.key)


def _read(store: ObjectStore, checkpoint: Checkpoint) -> bytes:
    data = store.get(checkpoint.key)
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CorruptObject(f"object {checkpoint.key} in {store.url} is not what was written: its SHA-256 differs")
    return data
