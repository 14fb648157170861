"""Checkpoints restore everything, bit for bit, and nothing that is not data."""

from __future__ import annotations

import io
import pickle
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
    with pytest.raises(CheckpointError, match="config_hash is"):
        decode_checkpoint(data, loose_attempt(seed=2))


def test_no_code_is_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("unpickled",))

    file = io.BytesIO()
    torch.save({"state": Trap()}, file)
    with pytest.raises(pickle.UnpicklingError):
        decode_checkpoint(file.getvalue(), ATTEMPT)
