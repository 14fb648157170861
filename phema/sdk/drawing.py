"""Draw the pictures of a downloaded file into one file, in the user's own process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from phema.errors import InvalidArgument
from phema.sdk.networks import load
from phema.shared.datasets import open_dataset
from phema.shared.datasets.label_vectors import vectors_of_seeds
from phema.shared.drawing.drawing import Drawn, draw
from phema.shared.drawing.picture_files import write_pictures
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.recipes.run_config import DatasetConfig, RunConfig
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.files.folder_layout import WEIGHTS_FILE
from phema.shared.snapshots.files.snapshot_file import read_path

Progress = Callable[[int, int], None]
"""Called with the pictures drawn and the pictures of the request."""


@dataclass(frozen=True)
class _Weights:
    denoiser: Denoiser
    dataset: DatasetConfig | None
    """That of the run, as the file records it; None if it does not."""


def draw_file(
    weights: Path,
    output: Path,
    request: SampleRequest,
    *,
    guide: Path | None = None,
    device: torch.device | str = "cpu",
    on_progress: Progress = lambda done, total: None,
) -> Path:
    """Draw pictures of a downloaded file or folder into the file `output`, and return it.

    The pictures are those that a service draws for the same request, bit for bit on a CPU. The file appears only when
    it is complete. The dataset of the run is opened only for a class that is given by name, and for label vectors.

    Raises InvalidArgument if the request does not fit the network, FileNotFoundError, CorruptObject, UnknownClass,
    NotFinite, SamplerError (the guide does not fit), and DatasetError and HubUnreachable of dataset and VAE.
    """
    _check_device(device)
    opened = _open(weights, device)
    if (misfit := request.misfit(opened.denoiser.config, opened.dataset)) is not None:
        raise InvalidArgument(misfit.sentence)
    label = _label(request, opened)
    second = None if guide is None else _open(guide, device).denoiser
    vae = None if opened.dataset is None else opened.dataset.vae
    drawn = draw(opened.denoiser, second, request, label=label, vae=vae)
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            write_pictures(request, _counted(drawn, len(request.seeds), on_progress), file.write)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _label(request: SampleRequest, weights: _Weights) -> int | Literal["random"] | NDArray[np.float32] | None:
    """The label that `draw` takes."""
    label_dim, dataset = weights.denoiser.config.label_dim, weights.dataset
    names: tuple[str, ...] = ()
    if request.needs_names and dataset is not None:
        names = open_dataset(dataset).info.class_names
    label = request.label(label_dim, names)
    if label == "random" and label_dim and dataset is not None and dataset.labels == "vectors":
        return vectors_of_seeds(open_dataset(dataset), request.seeds)
    return label


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InvalidArgument(f"device {device} cannot be used by torch on this machine; cpu always can") from error


def _open(path: Path, device: torch.device | str) -> _Weights:
    denoiser, config = load(path, device), _config(path)
    if config is not None and torch.device(device).type == "cuda":
        denoiser.precision = config.precision  # as in a worker
    return _Weights(denoiser, None if config is None else config.dataset)


def _config(path: Path) -> RunConfig | None:
    metadata = read_path(path / WEIGHTS_FILE if path.is_dir() else path).metadata
    try:
        return None if metadata is None else RunConfig.model_validate(metadata.config)
    except ValidationError:
        return None  # a run of another training loop, whose network is one of phema's


def _counted(drawn: Iterator[Drawn], total: int, on_progress: Progress) -> Iterator[Drawn]:
    done = 0
    on_progress(done, total)
    for batch in drawn:
        yield batch
        done += len(batch.seeds)
        on_progress(done, total)
