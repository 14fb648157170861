"""Hugging Face's own Trainer with `PostHocEMACallback`: averages, snapshots, accumulation, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from phema.errors import InvalidArgument
from phema.integrations.transformers import PostHocEMACallback
from tests.integrations.tracked import DirectAverages, check_reconstruction, check_same_snapshots, check_snapshots

BATCH, ACCUMULATE, STEPS = 4, 2, 120
IMAGES = BATCH * ACCUMULATE
WIDTHS = (0.05, 0.10)


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences in which each token is the one before plus a constant of the sequence."""

    def __len__(self) -> int:
        return 640

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = (index % 5 + 1) * torch.arange(8) % 16
        return {"input_ids": tokens, "labels": tokens}


class Watch(TrainerCallback):  # type: ignore[misc]  # untyped without the library
    """Tracks averages directly after each step of the optimizer."""

    def __init__(self, stop_at: int | None = None, widths: tuple[float, ...] = WIDTHS) -> None:
        self.direct, self.stop_at = DirectAverages(widths), stop_at

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.direct.update(model, state.global_step * IMAGES)
        if state.global_step == self.stop_at:
            raise KeyboardInterrupt


def model() -> nn.Module:
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 16, "n_positions": 8}
    # Its embeddings are tied to its output layer.
    built: nn.Module = GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    return built


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATE,
        max_steps=STEPS,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options},
    )
    return Trainer(model(), arguments, train_dataset=Counting(), callbacks=[*callbacks])


def test_averages_are_those_tracked_directly(tmp_path: Path) -> None:
    watch = Watch(widths=(*WIDTHS, 0.07))
    trainer(tmp_path, watch, PostHocEMACallback("runs/mine", save_every=5 * IMAGES)).train()
    check_snapshots("runs/mine", watch.direct, list(range(5 * IMAGES, STEPS * IMAGES + 1, 5 * IMAGES)))
    assert check_reconstruction("runs/mine", watch.direct, 0.07, tmp_path / "chosen.safetensors") < 1e-2


def test_a_checkpoint_continues_the_averages_exactly(tmp_path: Path) -> None:
    tracked = {"save_every": 10 * IMAGES, "update_every": 3, "config": {"model": "gpt2"}}
    straight = PostHocEMACallback("runs/straight", **tracked)
    trainer(tmp_path / "straight", straight).train()

    saving = {"save_strategy": "steps", "save_steps": 35}
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, PostHocEMACallback("runs/cut", **tracked), Watch(stop_at=88), **saving).train()
    resumed = PostHocEMACallback("runs/cut", **tracked)
    trainer(tmp_path, resumed, **saving).train(resume_from_checkpoint=True)
    assert straight.averages is not None
    assert resumed.averages is not None
    for index in range(2):
        wanted, found = straight.averages.ema.tensors(index), resumed.averages.ema.tensors(index)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    check_same_snapshots("runs/straight", "runs/cut")


def test_a_checkpoint_without_averages_is_refused(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 60}
    trainer(tmp_path, **saving).train()
    again = trainer(tmp_path, PostHocEMACallback("runs/mine", save_every=80), **saving)
    with pytest.raises(InvalidArgument, match=r"resume_from: .*checkpoint-120 holds no phema_averages\.pt"):
        again.train(resume_from_checkpoint=True)
