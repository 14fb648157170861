"""Encode pictures to latents and decode latents, with Stable Diffusion's AutoencoderKL from diffusers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phema.shared.datasets.decoding import LATENT_CHANNELS, denormalized
from phema.shared.datasets.errors import DatasetError, HubUnreachable
from phema.shared.datasets.files.file_index import LABELS_FILE, labels_document
from phema.shared.datasets.files.files import Files
from phema.shared.datasets.preparation.conversion import Progress, numbered
from phema.shared.datasets.preparation.dataset_writer import new_dataset
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.datasets.stored_pictures import PictureReader

BATCH = 8
"""Pictures per batch of the VAE. 8 pictures of 512x512 take about 10 GB on a GPU."""


class Vae:
    """An AutoencoderKL in evaluation mode and float32.

    It takes pictures in [0, 1], not [-1, 1]: the constants that normalise latents fit only this convention.
    """

    def __init__(self, source: str, device: torch.device | str = "cpu") -> None:
        """`source` is a folder or an id on the Hugging Face hub. Raises DatasetError, HubUnreachable."""
        self.source, self._device = source, torch.device(device)
        self._model = _loaded(source).to(self._device).eval().requires_grad_(False)
        config = self._model.config
        if (config.in_channels, config.latent_channels) != (3, LATENT_CHANNELS):
            raise DatasetError(
                f"VAE {source} makes {config.latent_channels} channels of {config.in_channels}; "
                f"one that makes {LATENT_CHANNELS} of 3 is needed"
            )
        self.factor = int(2 ** (len(config.block_out_channels) - 1))
        """Side of a picture divided by the side of its latent, in pixels."""

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, 3, H, W] -> float32 [N, 8, h, w]: mean and standard deviation of each latent, not normalised."""
        images = torch.from_numpy(pixels).to(self._device).float() / 255
        drawn = self._model.encode(images).latent_dist
        latents: NDArray[np.float32] = torch.cat([drawn.mean, drawn.std], dim=1).cpu().numpy()
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [N, 4, h, w] -> pictures float32 [N, 3, H, W] in [-1, 1] on the CPU.

        On a CPU each is decoded alone, so that a picture does not depend on its neighbours in rounding. Raises
        DatasetError for another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != LATENT_CHANNELS:
            raise DatasetError(f"latents have the shape {list(latents.shape)}; [N, {LATENT_CHANNELS}, h, w] is needed")
        plain = torch.from_numpy(denormalized(latents.float().cpu().numpy()))
        parts = torch.split(plain, 1 if self._device.type == "cpu" else BATCH)
        decoded = [self._model.decode(part.to(self._device)).sample.cpu() for part in parts]
        return torch.cat(decoded).clamp(0, 1) * 2 - 1


@lru_cache(maxsize=1)
def opened(source: str, device: torch.device | str = "cpu") -> Vae:
    """The VAE; the last one stays loaded for the next call. Raises DatasetError, HubUnreachable."""
    return Vae(source, device)


def decode(latents: Tensor, source: str, device: torch.device | str = "cpu") -> Tensor:
    """`Vae.decode` with the VAE of a folder or hub id. Raises DatasetError, HubUnreachable."""
    return opened(source, device).decode(latents)


def encode(
    source: Files, destination: Path, vae: Vae, *, progress: Progress = lambda done, total: None
) -> tuple[int, tuple[int, int, int]]:
    """Write the latents of an RGB dataset as NPY files and dataset.json, in the order of the source's names.

    Returns the number of files and their shape (8, h, w). Raises DatasetError.
    """
    reader = PictureReader(source)
    format = reader.format
    if format.encoding != "pictures" or format.channels != 3:
        raise DatasetError(f"dataset {source.where} holds {format}; a VAE encodes RGB pictures")
    if format.resolution % vae.factor:
        raise DatasetError(
            f"dataset {source.where} has {format.resolution} pixels a side; "
            f"VAE {vae.source} needs a multiple of {vae.factor}"
        )
    shape = (2 * LATENT_CHANNELS, format.resolution // vae.factor, format.resolution // vae.factor)
    with new_dataset(destination) as write:
        progress(0, len(reader))
        for done, latents in enumerate(_latents(reader, vae)):
            if latents.shape != shape or not np.isfinite(latents).all():
                raise DatasetError(f"VAE {vae.source} gives no finite {list(shape)} for {reader.index.name(done)}")
            file = io.BytesIO()
            np.save(file, latents)
            write(numbered(done, "npy"), file.getvalue())
            progress(done + 1, len(reader))
        names = [numbered(picture, "npy") for picture in range(len(reader))]
        write(LABELS_FILE, labels_document(names, reader.index.listed_labels, reader.index.classes))
    return len(reader), shape


def _latents(reader: PictureReader, vae: Vae) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(reader), BATCH):
        yield from vae.encode(np.stack(list(reader.read_all(range(start, min(start + BATCH, len(reader)))))))


def _loaded(source: str) -> Any:
    """Load the model. Its weights must be safetensors: nothing is unpickled."""
    declare_missing_operators()
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise DatasetError(
            f"latents need the package diffusers, which cannot be imported ({error}); pip install 'phema[vae]'"
        ) from error
    if "://" in source or (Path(source).is_absolute() and not Path(source).is_dir()):
        raise DatasetError(f"VAE {source} is neither a folder on this machine nor an id on the Hugging Face hub")
    try:
        return AutoencoderKL.from_pretrained(source, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if _is_hub_failure(error):
            raise HubUnreachable(f"VAE {source} is not on this machine, and its hub cannot be reached") from error
        raise DatasetError(f"VAE {source} cannot be loaded: {reason}") from error


def _is_hub_failure(error: BaseException | None) -> bool:
    """Whether a connection or the hub failed. diffusers wraps such an error in the OSError of a missing file."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError)):
            return True
        if isinstance(error, HfHubHTTPError) and error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return True
        error = error.__cause__ or error.__context__
    return False
