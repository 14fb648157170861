"""Accelerate's own loop with `track`: averages, snapshots, accumulation, `save_state` and `load_state`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phema.integrations.accelerate import track
from tests.integrations.tracked import DirectAverages, check_reconstruction, check_same_snapshots, check_snapshots

BATCH, ACCUMULATE, STEPS = 8, 2, 200
WIDTHS = (0.05, 0.10)


def train(
    run: str, folder: Path, *, first: int = 1, stop_at: int = STEPS, **options: Any
) -> tuple[Any, DirectAverages]:
    """Steps `first` to `stop_at` of one training, which saves its state after step 90, or continues from it."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    x = torch.randn(STEPS * ACCUMULATE * BATCH, 4, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x, x[:, :2].sin()), batch_size=BATCH)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    averages = track(accelerator, model, run, save_every=160, **options)
    direct = DirectAverages((*WIDTHS, 0.07))
    if first > 1:
        accelerator.load_state(str(folder))
        data = accelerator.skip_first_batches(data, (first - 1) * ACCUMULATE)
    step = first - 1
    for inputs, targets in data:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
        averages.step(len(inputs))
        if accelerator.sync_gradients:
            step += 1
            direct.update(model, step * ACCUMULATE * BATCH)
            if step == 90 and first == 1:
                accelerator.save_state(str(folder))
            if step == stop_at:
                break
    (averages.finish if step == STEPS else averages.close)()
    return averages, direct


def test_averages_are_those_tracked_directly_and_continue_exactly(tmp_path: Path) -> None:
    straight, direct = train("runs/straight", tmp_path / "straight")
    check_snapshots("runs/straight", direct, list(range(160, STEPS * ACCUMULATE * BATCH + 1, 160)))
    assert check_reconstruction("runs/straight", direct, 0.07, tmp_path / "chosen.safetensors") < 1e-3

    train("runs/cut", tmp_path / "cut", stop_at=117)
    resumed, _ = train("runs/cut", tmp_path / "cut", first=91)
    for index in range(2):
        wanted, found = straight.ema.tensors(index), resumed.ema.tensors(index)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    check_same_snapshots("runs/straight", "runs/cut")


def test_a_mistake_is_said_before_training() -> None:
    with pytest.raises(ValueError, match="save_every -1 must be a whole number of at least 1"):
        track(Accelerator(cpu=True), nn.Linear(1, 1), "runs/mine", save_every=-1)
