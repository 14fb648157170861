"""PyTorch Lightning's own Trainer with `PostHocEMA`: averages, snapshots, resuming, accumulation, two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from phema.errors import InvalidArgument
from phema.integrations.lightning import PostHocEMA
from tests.integrations.tracked import DirectAverages, check_reconstruction, check_same_snapshots, check_snapshots

ROOT = Path(__file__).parents[2]
BATCH, SAMPLES, EPOCHS = 8, 800, 3
STEPS = SAMPLES // BATCH * EPOCHS
WIDTHS = (0.05, 0.10)


class Sines(LightningModule):  # type: ignore[misc]  # untyped without the library
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        self.validated: list[Tensor] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.net(inputs), targets)

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(self.net[0].weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


class Watch(Callback):  # type: ignore[misc]
    """Tracks averages directly, each time the optimizer has made a step."""

    def __init__(self, images_per_step: int, stop_at: int | None = None, widths: tuple[float, ...] = WIDTHS) -> None:
        self.direct = DirectAverages(widths)
        self.images_per_step, self.stop_at = images_per_step, stop_at
        self._steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.direct.update(pl_module.net, self._steps * self.images_per_step)
        if trainer.global_step == self.stop_at:
            raise KeyboardInterrupt


def batches(samples: int = SAMPLES) -> DataLoader[Any]:
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :2].sin()), batch_size=BATCH)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{"max_epochs": EPOCHS, "default_root_dir": folder, **quiet, **options}, callbacks=[*callbacks])


def test_averages_are_those_tracked_directly(tmp_path: Path) -> None:
    watch = Watch(BATCH, widths=(*WIDTHS, 0.07))
    callback = PostHocEMA("runs/mine", save_every=80, module="net", validate_with=1, config={"lr": 0.2})
    model = Sines()
    trainer(tmp_path, watch, callback, enable_checkpointing=False).fit(model, batches(), batches())
    check_snapshots("runs/mine", watch.direct, list(range(80, STEPS * BATCH + 1, 80)))
    assert check_reconstruction("runs/mine", watch.direct, 0.07, tmp_path / "chosen.safetensors") < 1e-3
    # The last validation saw the second average; the first one, before any step, the weights themselves.
    torch.testing.assert_close(model.validated[-1].double(), watch.direct.values[0.10]["0.weight"])
    torch.manual_seed(0)
    assert torch.equal(model.validated[0], nn.Linear(4, 16).weight)
    assert not torch.equal(model.validated[-1], model.net[0].weight)


def test_a_checkpoint_continues_the_averages_exactly(tmp_path: Path) -> None:
    """With gradient accumulation, and batches that are not full at the end of an epoch."""
    steps, samples = {"accumulate_grad_batches": 4}, SAMPLES + 5
    tracked = {"save_every": 160, "module": "net", "update_every": 2}
    straight = PostHocEMA("runs/straight", **tracked)
    trainer(tmp_path, straight, enable_checkpointing=False, **steps).fit(Sines(), batches(samples))

    saving = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, filename="{epoch}")
    cut = trainer(tmp_path, PostHocEMA("runs/cut", **tracked), Watch(32, stop_at=60), saving, **steps)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cut.fit(Sines(), batches(samples))
    resumed = PostHocEMA("runs/cut", **tracked)
    again = trainer(tmp_path, resumed, enable_checkpointing=False, **steps)
    again.fit(Sines(), batches(samples), ckpt_path=tmp_path / "saved" / "epoch=1.ckpt", weights_only=True)
    assert straight.averages is not None
    assert resumed.averages is not None
    assert resumed.averages.num_images == straight.averages.num_images == EPOCHS * samples
    for index in range(2):
        wanted, found = straight.averages.ema.tensors(index), resumed.averages.ema.tensors(index)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    check_same_snapshots("runs/straight", "runs/cut")


def test_mistakes_are_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="save_every 0 must be a whole number of at least 1"):
        PostHocEMA("runs/mine", save_every=0)
    with pytest.raises(InvalidArgument, match="option 'sigma_rel' is unknown; allowed: sigma_rels, half_life_images"):
        PostHocEMA("runs/mine", save_every=80, sigma_rel=0.05)  # type: ignore[call-arg]
    callback = PostHocEMA("runs/mine", save_every=80, module="nett")
    with pytest.raises(InvalidArgument, match="module 'nett' is no submodule; there are: net"):
        trainer(tmp_path, callback, enable_checkpointing=False).fit(Sines(), batches())


def test_two_processes(tmp_path: Path) -> None:
    """DDP with gloo: each process sees half of each batch's samples, and only one of them writes."""
    code = f"""
import warnings; warnings.simplefilter("ignore")
import torch
from tests.integrations.test_lightning import *
if __name__ == "__main__":
    watch = Watch(2 * BATCH)
    callback = PostHocEMA("runs/mine", save_every=160, module="net")
    fitted = trainer(Path({str(tmp_path)!r}), watch, callback, enable_checkpointing=False, devices=2, strategy="ddp")
    fitted.fit(Sines(), batches())
    if fitted.is_global_zero:
        check_snapshots("runs/mine", watch.direct, list(range(160, SAMPLES * EPOCHS + 1, 160)))
        print("compared")
"""
    script = tmp_path / "train.py"
    script.write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert "compared" in done.stdout, done.stderr
