"""A helper for Hugging Face Accelerate: averages of a prepared model, and snapshots of them.

averages = track(accelerator, model, "runs/mine", save_every=10_000)
...
averages.step(len(batch))  # after optimizer.step()
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Unpack

from torch import nn

from phema.extras import missing_packages
from phema.integrations.tracked_averages import AveragesOptions, TrackedAverages, check_options

try:
    from accelerate import Accelerator
except ModuleNotFoundError as error:
    raise missing_packages(error, "phema.integrations.accelerate") or error from error


class AcceleratedAverages:
    """Averages of a model that an Accelerator prepared. Use `track`."""

    def __init__(self, accelerator: Accelerator, tracked: TrackedAverages) -> None:
        self._accelerator, self._tracked = accelerator, tracked
        self._seen = 0
        self.ema, self.writer = tracked.ema, tracked.writer

    def step(self, batch_size: int) -> None:
        """Call it after `optimizer.step()`, once per batch, with the number of samples of this process's batch.

        Samples are counted over all processes; each is taken to have as many as this one. While the Accelerator
        accumulates gradients, samples are only counted.
        """
        self._seen += batch_size * self._accelerator.num_processes
        if self._accelerator.sync_gradients:
            self._tracked.step(self._seen)

    def state_dict(self) -> dict[str, Any]:
        """For `accelerator.save_state`."""
        return {"tracked": self._tracked.state_dict(), "samples": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `accelerator.load_state`."""
        self._tracked.load_state_dict(state["tracked"])
        self._seen = int(state["samples"])

    def finish(self) -> None:
        """Save the averages at the end of the training, and end the run."""
        self._tracked.finish()

    def close(self) -> None:
        """End without finishing the run: a training that is started again continues it."""
        self._tracked.close()


def track(
    accelerator: Accelerator,
    model: nn.Module,
    run: str | PathLike[str],
    *,
    save_every: int,
    **options: Unpack[AveragesOptions],
) -> AcceleratedAverages:
    """Track power-function averages of `model`, which `accelerator.prepare` returned, and write them into `run`.

    `run` is a folder, a bucket, or the name of a run of a service. `save_every` is the number of samples from one
    snapshot to the next. `options` are those of `AveragesOptions`. The averages take part in the Accelerator's
    `save_state` and `load_state`. Raises InvalidArgument, EmaError and the errors of `phema.SnapshotWriter`.
    """
    check_options(save_every, options)
    averages = AcceleratedAverages(accelerator, TrackedAverages(model, run, save_every, options))
    accelerator.register_for_checkpointing(averages)
    return averages
