"""A callback for PyTorch Lightning: averages of the module in training, and snapshots of them.

trainer = Trainer(callbacks=[PostHocEMA("runs/mine", save_every=10_000)])
"""

from __future__ import annotations

from contextlib import ExitStack
from os import PathLike
from typing import Any, Unpack

from phema.errors import InvalidArgument
from phema.extras import missing_packages
from phema.integrations.tracked_averages import AveragesOptions, TrackedAverages, check_options

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.data import extract_batch_size
except ModuleNotFoundError as error:
    raise missing_packages(error, "phema.integrations.lightning") or error from error


class PostHocEMA(Callback):  # type: ignore[misc]  # untyped without the library
    """Tracks power-function averages while Lightning trains, and writes them as snapshots of `run`.

    `run` is a folder, a bucket, or the name of a run of a service. `save_every` is the number of samples from one
    snapshot to the next; the averages at the end of `fit` are stored too. `module` names the submodule to average, such
    as "net"; None is the whole LightningModule. `images_per_batch` is the number of samples in one batch of one
    process; None takes the length of the batch. Validation runs with average `validate_with` in place of the weights;
    None validates the weights themselves. `options` are those of `AveragesOptions`.

    Samples are counted over all processes; each is taken to have as many as this one. With gradient accumulation the
    averages are updated after the optimizer's steps. The state is in Lightning's checkpoints: `fit(ckpt_path=…)`
    continues the averages exactly.

    Raises InvalidArgument.
    """

    def __init__(
        self,
        run: str | PathLike[str],
        *,
        save_every: int,
        module: str | None = None,
        images_per_batch: int | None = None,
        validate_with: int | None = None,
        **options: Unpack[AveragesOptions],
    ) -> None:
        check_options(save_every, options)
        self._run, self._save_every, self._options = run, save_every, options
        self._module, self._images_per_batch, self._validate_with = module, images_per_batch, validate_with
        self.averages: TrackedAverages | None = None
        """While `fit` runs, and afterwards: `.ema` and `.writer`."""
        self._restored: dict[str, Any] | None = None
        self._seen = self._steps_seen = 0
        self._swap = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module is on its device now, and sharded."""
        try:
            module = pl_module if self._module is None else pl_module.get_submodule(self._module)
        except AttributeError as error:
            known = ", ".join(name for name, _ in pl_module.named_children())
            raise InvalidArgument(f"module {self._module!r} is no submodule; there are: {known}") from error
        self.averages = TrackedAverages(module, self._run, self._save_every, self._options)
        self._seen = 0
        if self._restored is not None:
            self._seen = int(self._restored["samples"])
            self.averages.load_state_dict(self._restored["tracked"])
            self._restored = None
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.averages is not None, "a batch ends after the start of the training"
        size = extract_batch_size(batch) if self._images_per_batch is None else self._images_per_batch
        self._seen += size * trainer.world_size
        if trainer.global_step > self._steps_seen:  # otherwise gradients are still accumulated
            self._steps_seen = trainer.global_step
            self.averages.step(self._seen)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning validates a few batches before the first step, when there is no average yet.
        if self._validate_with is not None and self.averages is not None and self.averages.ema.num_images:
            self._swap.enter_context(self.averages.ema.average_parameters(self._validate_with))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.averages is not None:
            self.averages.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run stays open: a training that is started again continues it."""
        self._swap.close()
        if self.averages is not None:
            self.averages.close()

    def state_dict(self) -> dict[str, Any]:
        if self.averages is None:
            return {}
        return {"tracked": self.averages.state_dict(), "samples": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning calls it before the module is on its device, so the averages take it over in `on_train_start`."""
        self._restored = state_dict or None
