"""Load reconstructed networks in the user's own process, sample pictures, save pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from phema.errors import InvalidArgument
from phema.shared.edm2.networks.denoiser import Denoiser, Precision
from phema.shared.edm2.sampling import sampler
from phema.shared.pictures.picture_grid import picture_grid
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.folder_layout import WEIGHTS_FILE
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.network_loading import load_denoiser, load_folder
from phema.shared.snapshots.files.snapshot_file import read_path


def load(path: str | Path, device: torch.device | str = "cpu", precision: Precision = "float32") -> Denoiser:
    """Load the network of a downloaded reconstruction, snapshot or model onto `device`.

    `path` is a safetensors file, or the folder of a promoted model (`client.models.download_folder`).

    `precision` is the dtype of the activations. "float16" and "bfloat16" need a GPU.

    `denoiser(x, sigma, class_labels)` is D(x; sigma): x float32 [N, C, H, W], sigma [N] or one number, class_labels
    one-hot [N, label_dim] or None. `denoiser.config` describes the network.

    Raises FileNotFoundError, phema.shared.snapshots.CorruptObject if the file is truncated or not a snapshot file, and
    phema.errors.InvalidArgument if the device does not support the precision.
    """
    if precision not in get_args(Precision):
        raise InvalidArgument(f"precision {precision!r} is unknown; allowed: {', '.join(get_args(Precision))}")
    if precision != "float32" and torch.device(device).type == "cpu":
        raise InvalidArgument(f"precision {precision} needs a GPU; on a CPU compute in float32")
    path = Path(path)
    denoiser = (load_folder(path) if path.is_dir() else load_denoiser(path)).to(device).eval()
    denoiser.precision = precision
    return denoiser


def metadata(path: str | Path) -> SnapshotMetadata:
    """Metadata of a downloaded file or folder: run, time, profile, configuration and the lineage of a reconstruction.

    Reads only the header. Raises FileNotFoundError and CorruptObject as `load`.
    """
    path = Path(path)
    found = read_path(path / WEIGHTS_FILE if path.is_dir() else path).metadata
    if found is None:
        raise CorruptObject(f"{path} is a safetensors file without phema's metadata")
    return found


def sample(
    denoiser: Denoiser,
    *,
    seeds: int | Sequence[int] = 16,
    class_labels: int | Sequence[int] | Tensor | Literal["random"] | None = "random",
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    guide: Denoiser | None = None,
    guidance: float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    batch_size: int = 64,
) -> Tensor:
    """Sample pictures with Heun's method: float32 [N, C, H, W], about -1 to 1, on the CPU.

    `seeds` gives one picture per seed; a number N means the seeds 0 to N - 1. A picture depends only on its seed.
    `class_labels` is one class for all, one per picture (indices or one-hot rows), "random", or None for no label.
    `guide` is a worse network (autoguidance) or an unconditional one; `guidance` above 1 leads away from it. With
    `guidance_interval` (low, high], only the steps whose middle noise level lies in the interval are guided. `churn`
    above 0 adds fresh noise, scaled by `churn_noise`, at noise levels from `churn_min` to `churn_max`.

    Raises ValueError if labels, guide or numbers are invalid for the network.
    """
    chosen = range(seeds) if isinstance(seeds, int) else list(seeds)
    labels = [class_labels] * len(chosen) if isinstance(class_labels, int) else class_labels
    return sampler.sample(
        denoiser,
        seeds=chosen,
        class_labels=labels,
        num_steps=num_steps,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        guide=guide,
        guidance=guidance,
        guidance_interval=guidance_interval,
        churn=churn,
        churn_min=churn_min,
        churn_max=churn_max,
        churn_noise=churn_noise,
        batch_size=batch_size,
    )


def save_grid(pictures: Tensor, path: str | Path, columns: int | None = None) -> Path:
    """Write pictures [N, C, H, W] with values from -1 to 1 as one image file with `columns` columns.

    C is 1 (grey) or 3 (RGB). By default the grid is about square. Returns the path. Raises InvalidArgument for other
    shapes, such as latents, which must be decoded first.
    """
    if pictures.ndim != 4 or not len(pictures) or pictures.shape[1] not in (1, 3):
        raise InvalidArgument(
            f"pictures have the shape {tuple(pictures.shape)}; a grid needs [N, C, H, W] with N > 0 and C 1 or 3"
        )
    columns = columns or max(1, round(len(pictures) ** 0.5))
    path = Path(path)
    Image.fromarray(picture_grid(pictures.detach().float().cpu().numpy(), columns)).save(path)
    return path
