"""Checkpoints restore everything, bit for bit, and nothing that is not data."""

from __future__ import annotations

import io
import pickle
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.checkpoint import (
    CheckpointError,
    copy_to_cpu,
    decode_checkpoint,
    encode_checkpoint,
)
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import open_dataset
from tests.trainer.support import loose_attempt

ATTEMPT = loose_attempt(lr_rampup_images=0)
CONFIG = ATTEMPT.config


def after(steps: int) -> TrainingState:
    state = TrainingState(CONFIG, torch.device("cpu"))
    batches = Batches(open_dataset(CONFIG.dataset), CONFIG, WorkerGroup())
    for _ in range(steps):
        train_step(state, batches.at(state.num_images), CONFIG, WorkerGroup())
    return state


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested state, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{path}/{key}").items()}
    return {path: value}


def test_a_checkpoint_restores_every_bit() -> None:
    state = after(3)
    data = bytes(encode_checkpoint(copy_to_cpu(state.state_dict()), ATTEMPT))
    restored = TrainingState(CONFIG, torch.device("cpu"))
    restored.load_state_dict(decode_checkpoint(data, ATTEMPT))
    before, now = flat(state.state_dict()), flat(restored.state_dict())
    assert before.keys() == now.keys()
    for path, value in before.items():
        assert torch.equal(value, now[path]) if isinstance(value, torch.Tensor) else value == now[path], path
    assert restored.num_images == 48


def test_a_copy_does_not_change_with_the_next_step() -> None:
    state = after(1)
    copy = copy_to_cpu(state.state_dict())
    before = {path: value.clone() for path, value in flat(copy).items() if isinstance(value, torch.Tensor)}
    batches = Batches(open_dataset(CONFIG.dataset), CONFIG, WorkerGroup())
    train_step(state, batches.at(16), CONFIG, WorkerGroup())
    for path, value in flat(copy).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[path]), path


def test_equal_states_make_equal_bytes() -> None:
    one, other = (encode_checkpoint(copy_to_cpu(after(2).state_dict()), ATTEMPT) for _ in range(2))
    assert bytes(one) == bytes(other)


def test_a_checkpoint_of_another_run_or_configuration_is_refused() -> None:
    data = bytes(encode_checkpoint(copy_to_cpu(after(1).state_dict()), ATTEMPT))
    with pytest.raises(CheckpointError, match="run_id is 'run-1', not 'run-2'"):
        decode_checkpoint(data, loose_attempt("run-2", lr_rampup_images=0))
    with pytest.raises(CheckpointError, match="training_hash is"):
        decode_checkpoint(data, loose_attempt(seed=2))


def test_no_code_is_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("unpickled",))

    file = io.BytesIO()
    torch.save({"state": Trap()}, file)
    with pytest.raises(pickle.UnpicklingError):
        decode_checkpoint(file.getvalue(), ATTEMPT)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file of this process may grow beyond a megabyte; a write then fails as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_without_room_for_a_temporary_file_the_bytes_are_the_same(little_room: None) -> None:
    state = copy_to_cpu(after(1).state_dict())
    in_memory = encode_checkpoint(state, ATTEMPT)
    assert isinstance(in_memory.obj, io.BytesIO) or "BytesIO" in type(in_memory.obj).__name__
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    assert bytes(in_memory) == bytes(encode_checkpoint(state, ATTEMPT))


def test_a_checkpoint_of_a_path_is_mapped(tmp_path: Path) -> None:
    """What is loaded does not depend on the file afterwards."""
    state = after(2)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(encode_checkpoint(copy_to_cpu(state.state_dict()), ATTEMPT))
    restored = TrainingState(CONFIG, torch.device("cpu"))
    restored.load_state_dict(decode_checkpoint(path, ATTEMPT))
    path.write_bytes(bytes(path.stat().st_size))
    before, now = flat(state.state_dict()), flat(restored.state_dict())
    for name, value in before.items():
        assert torch.equal(value, now[name]) if isinstance(value, torch.Tensor) else value == now[name], name
