"""Averages of a module in training, and the run that their snapshots go to: what all training loops have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from phema.client.client import Client
from phema.errors import InvalidArgument
from phema.sdk.snapshot_writer import SnapshotWriter
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.averaging.named_tensors import whole
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.stores.interface import ObjectStore


class AveragesOptions(TypedDict, total=False):
    """What every integration accepts by name."""

    sigma_rels: Sequence[float]
    """Widths of the power-function averages; default (0.05, 0.10)."""
    half_life_images: int | Sequence[int]
    """Half-lives of traditional averages, which are tracked too; none by default."""
    rampup_ratio: float | None
    """See `phema.PowerFunctionEMA`."""
    device: str | torch.device | None
    """"cpu" keeps the averages on the CPU; None (default) where the parameters are."""
    update_every: int
    """Steps of the optimizer from one update of the averages to the next; default 1."""
    dtype: StoredDtype
    """Of the stored weights; default float16."""
    name: str | None
    """Name of a run in a folder; None is the folder's own name."""
    config: Mapping[str, Any] | None
    """Describes the training. A run is continued only with the same."""
    total_images: int | None
    """Planned length of the training."""
    store: str | ObjectStore | None
    """Store of the service, if `run` is the name of a run. See `phema.SnapshotWriter`."""
    client: Client | None
    """Client of the service, if `run` is the name of a run."""


class TrackedAverages:
    """Updates the averages of `module` after its optimizer's steps, and writes a snapshot of each now and then.

    `run` says where snapshots go, as in `phema.SnapshotWriter`: a folder, a bucket, or a run of a service. `save_every`
    is the number of images (samples, sequences) from one snapshot to the next. Create it when the module is on its
    device and sharded, in every process. Raises InvalidArgument, EmaError and the errors of SnapshotWriter.
    """

    def __init__(
        self,
        module: nn.Module,
        run: str | PathLike[str],
        save_every: int,
        options: AveragesOptions | None = None,
    ) -> None:
        given: AveragesOptions = options or {}
        self._save_every = _positive("save_every", save_every)
        self._update_every = _positive("update_every", given.get("update_every", 1))
        self._dtype = given.get("dtype", "float16")
        self.ema = PowerFunctionEMA(
            module,
            given.get("sigma_rels", (0.05, 0.10)),
            half_life_images=given.get("half_life_images", ()),
            rampup_ratio=given.get("rampup_ratio"),
            device=given.get("device"),
        )
        self.writer = SnapshotWriter(
            run,
            given.get("store"),
            name=given.get("name"),
            config=given.get("config"),
            total_images=given.get("total_images"),
            client=given.get("client"),
        )
        self.num_images = 0
        """Images seen, over all processes."""
        self._steps = 0
        self._closed = False

    def step(self, num_images: int) -> None:
        """Call it after each step of the optimizer, with the images seen since training began, over all processes."""
        before, self.num_images = self.num_images, num_images
        self._steps += 1
        if self._steps % self._update_every == 0:
            self.ema.update(num_images)
        if num_images // self._save_every > before // self._save_every and self.ema.num_images:
            self.writer.save(self.ema, dtype=self._dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue exactly: tensors, lists and numbers.

        Waits until the snapshots so far are stored, because a training that continues from here does not save them
        again. Tensors of a sharded module are gathered, so that all processes must call it.
        """
        if not self._closed:
            self.writer.flush()
        averages = self.ema.state_dict()
        return {
            "averages": _gathered(averages) if self.ema.sharded else averages,
            "num_images": self.num_images,
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises EmaError if the averages in it are others."""
        self.ema.load_state_dict(state["averages"])
        self.num_images, self._steps = int(state["num_images"]), int(state["steps"])

    def finish(self) -> None:
        """Save the averages at the end of the training, and end the run."""
        if self.ema.num_images:
            self.writer.save(self.ema, dtype=self._dtype)
        self.writer.finish()
        self.close()

    def close(self) -> None:
        """End without finishing the run: a training that is started again continues it."""
        self._closed = True
        self.writer.close()


def check_options(save_every: int, options: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for options that no integration has, before anything is trained."""
    _positive("save_every", save_every)
    unknown = sorted(set(options) - set(AveragesOptions.__annotations__))
    if unknown:
        allowed = ", ".join(AveragesOptions.__annotations__)
        raise InvalidArgument(f"option {unknown[0]!r} is unknown; allowed: {allowed}")
    _positive("update_every", options.get("update_every", 1))


def _positive(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgument(f"{field} {value!r} must be a whole number of at least 1")
    return value


def _gathered(state: Any) -> Any:
    """`state` with whole tensors on the CPU in place of distributed ones. Collective."""
    if isinstance(state, Tensor):
        return whole(state).cpu()
    if isinstance(state, Mapping):
        return {key: _gathered(value) for key, value in state.items()}
    return [_gathered(value) for value in state] if isinstance(state, list) else state
