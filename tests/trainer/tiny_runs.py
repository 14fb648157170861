"""A run small enough to train many times, and single steps of it. Needs torch, but neither a catalog nor Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.datasets.pictures import Dataset, InMemory
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig

CPU = torch.device("cpu")


def _noise() -> Dataset:
    """256 pictures of the digits' shape."""
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (256, 1, 8, 8)).astype(np.float32)
    pictures = InMemory(images, generator.integers(0, 10, len(images)))
    return Dataset(DatasetInfo("noise", len(images), resolution=8, channels=1, num_classes=10), pictures, pictures)


DATASET = _noise()


def tiny_config(**fields: Any) -> RunConfig:
    """Digits, 170,000 parameters, batches of 16: 20 iterations with 4 snapshot times and 2 checkpoints."""
    overrides: dict[str, Any] = {
        "network": {"model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [], "channels_per_head": 16},
        "total_images": 320,
        "batch_size": 16,
        "snapshot_every": 80,
        "checkpoint_every": 160,
        "status_every": 80,
        "magnitudes_every": 80,
        "lr_rampup_images": 80,
        "seed": 1,
    }
    network = {**overrides["network"], **fields.pop("network", {})}
    return resolve("digits-tiny", {**overrides, "network": network, **fields})


def trained(config: RunConfig, state: TrainingState, steps: int, group: WorkerGroup | None = None) -> dict[str, Tensor]:
    """The weights after `steps` more, as contiguous float32 on the CPU."""
    group = group or WorkerGroup()
    batches = Batches(DATASET, config, group)
    for _ in range(steps):
        train_step(state, batches.at(state.num_images), config, group)
    return {name: value.float().cpu().contiguous() for name, value in state.denoiser.state_dict().items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, atol: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def movement_error(found: dict[str, Tensor], expected: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Distance between two trainings' ends over the distance from their beginning.

    Adam's first steps follow the sign of gradients, however small: single weights may differ by a whole step.
    """
    different = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    moved = torch.cat([(expected[name] - initial[name]).flatten() for name in expected])
    return float(different.norm() / moved.norm())
