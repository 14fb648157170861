"""A callback for the Trainer of Hugging Face Transformers: averages of the model in training, and snapshots of them.

averages = PostHocEMACallback("runs/mine", save_every=10_000)
trainer = Trainer(model, arguments, train_dataset=data, callbacks=[averages])
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch

from phema.errors import InvalidArgument
from phema.extras import missing_packages
from phema.integrations.tracked_averages import AveragesOptions, TrackedAverages, check_options

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise missing_packages(error, "phema.integrations.transformers") or error from error

STATE_FILE = "phema_averages.pt"
"""The averages' state in each checkpoint folder of the Trainer."""


class PostHocEMACallback(TrainerCallback):  # type: ignore[misc]  # untyped without the library
    """Tracks power-function averages while a Trainer trains, and writes them as snapshots of `run`.

    `run` is a folder, a bucket, or the name of a run of a service. `save_every` is the number of samples (sequences)
    from one snapshot to the next; the averages at the end of the training are stored too. `images_per_step` is the
    number of samples of one step of the optimizer over all processes; None computes it from the Trainer's arguments.
    The time of a snapshot is steps × `images_per_step`, also where the last batch of an epoch is smaller. `options` are
    those of `AveragesOptions`.

    Each checkpoint folder of the Trainer gets a file `phema_averages.pt`, from which `train(resume_from_checkpoint=…)`
    continues the averages exactly. `resume_from` is the folder that the training is resumed from, if it is not that of
    its step in the Trainer's `output_dir`.

    Raises InvalidArgument.
    """

    def __init__(
        self,
        run: str | PathLike[str],
        *,
        save_every: int,
        images_per_step: int | None = None,
        resume_from: str | PathLike[str] | None = None,
        **options: Unpack[AveragesOptions],
    ) -> None:
        check_options(save_every, options)
        self._run, self._save_every, self._options = run, save_every, options
        self._images_per_step, self._resume_from = images_per_step, resume_from
        self.averages: TrackedAverages | None = None
        """While the Trainer trains, and afterwards: `.ema` and `.writer`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        saved = None
        if state.global_step:
            folder = _checkpoint(args, state) if self._resume_from is None else Path(self._resume_from)
            saved = _read(folder / STATE_FILE)
        self.averages = TrackedAverages(model, self._run, self._save_every, self._options)
        if saved is not None:
            self.averages.load_state_dict(saved)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """After the optimizer's step; Trainer calls `on_substep_end` while gradients are accumulated."""
        assert self.averages is not None, "a step ends after the beginning of the training"
        each = self._images_per_step
        if each is None:
            each = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.averages.step(state.global_step * each)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        assert self.averages is not None, "the Trainer saves while it trains"
        content = self.averages.state_dict()  # in every process: it gathers sharded weights
        if state.is_world_process_zero:
            file = _checkpoint(args, state) / STATE_FILE
            partial = file.with_suffix(".partial")
            torch.save(content, partial)
            partial.replace(file)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.averages is not None:
            self.averages.finish()


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"resume_from: {file.parent} holds no {file.name}, without which the averages cannot go on; give the "
            "checkpoint folder of a training with this callback"
        ) from error
    return found
