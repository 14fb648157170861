"""Which pictures are drawn without scoring them, and the file that holds them. Torch-free, for the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from phema.shared.datasets import DatasetChoice
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.recipes.sampler_settings import SamplerSettings
from phema.shared.recipes.seed_lists import Seeds

SampleFormat = Literal["grid", "zip", "npy", "npz"]
SUFFIX: dict[SampleFormat, str] = {"grid": "png", "zip": "zip", "npy": "npy", "npz": "npz"}
MEDIA_TYPE: dict[SampleFormat, str] = {
    "grid": "image/png",
    "zip": "application/zip",
    "npy": "application/octet-stream",
    "npz": "application/zip",
}
MAX_GRID_PICTURES = 1024
"""As many as the largest grid of an evaluation."""
MAX_GRID_BYTES = 2**28
"""A grid is made in memory."""
MAX_BYTES = 2**32
"""Bytes of the pictures of one file, before compression."""
VAE_FACTOR = 8
"""Side of a decoded picture divided by the side of its latent, for the VAE of Stable Diffusion and its relatives."""
RANDOM, NONE = "random", "none"


def _class(given: Any) -> int | str | None:
    if given is None or given == NONE:
        return None
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 10:
        return int(given)
    if type(given) is int and given >= 0:
        return given
    if isinstance(given, str) and 0 < len(given) <= 200:
        return given
    raise ValueError("must be a class number, the name of a class, random, or none")


ClassChoice = Annotated[
    int | str | None,
    BeforeValidator(_class),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "null"}]}),
]


@dataclass(frozen=True)
class Misfit:
    """Why a request does not fit a network: the field, and one sentence that begins with it."""

    field: str
    sentence: str


class UnknownClass(ValueError):
    """No class has that name. The message is one sentence."""


class SampleRequest(SamplerSettings):
    """Pictures of one set of weights, one per seed, in one file."""

    seeds: Seeds = tuple(range(64))
    class_label: ClassChoice = "random"
    """Number or name of the class of every picture. "random": each seed draws its own, as in evaluations. None: no
    class. If labels are vectors, "random" takes that of a training picture which the seed chooses."""
    format: SampleFormat = "grid"
    columns: Annotated[int, Field(ge=1, le=MAX_GRID_PICTURES)] | None = None
    """Columns of a grid; None for about as many as rows."""

    @model_validator(mode="after")
    def _columns_need_a_grid(self) -> Self:
        if self.columns is not None and self.format != "grid":
            raise ValueError(f"columns {self.columns} has no effect with format {self.format}; leave it out")
        if self.format == "grid" and len(self.seeds) > MAX_GRID_PICTURES:
            raise ValueError(
                f"seeds names {len(self.seeds):,} pictures; a grid holds at most {MAX_GRID_PICTURES:,}, "
                "the formats zip, npy and npz hold more"
            )
        return self

    @property
    def grid_columns(self) -> int:
        return self.columns or max(1, round(len(self.seeds) ** 0.5))

    def misfit(self, network: NetworkConfig, dataset: DatasetChoice | None) -> Misfit | None:
        """Why pictures of this network cannot be drawn as requested; None if they can.

        Names of classes are checked only where no dataset needs to be read for it. `dataset`: that of the network's
        run; None if unknown.
        """
        takes_vectors = dataset is not None and dataset.labels == "vectors" and network.label_dim > 0
        if takes_vectors and self.class_label not in (RANDOM, None):
            sentence = f"class_label {self.class_label!r} is not possible: the labels of this network are vectors"
            return Misfit("class_label", f"{sentence}, so only random or none is allowed")
        if isinstance(self.class_label, int) and self.class_label >= network.label_dim:
            return Misfit("class_label", f"class_label {self.class_label} {_allowed(network.label_dim)}")
        if isinstance(self.class_label, str) and self.class_label != RANDOM:
            if not network.label_dim:
                return Misfit("class_label", f"class_label {self.class_label!r} {_allowed(0)}")
            if dataset is None or dataset.path is None:
                sentence = f"class_label {self.class_label!r} {_allowed(network.label_dim)}; its classes have no names"
                return Misfit("class_label", sentence)
        is_latent, has_vae = network.img_channels not in (1, 3), dataset is not None and dataset.vae is not None
        if is_latent and not has_vae and self.format != "grid":
            return Misfit(
                "format",
                f"format {self.format} holds pictures, and this network draws latents of {network.img_channels} "
                "channels without a dataset.vae to decode them; only grid is allowed, which shows three channels",
            )
        return self._too_large(network, has_vae)

    def _too_large(self, network: NetworkConfig, has_vae: bool) -> Misfit | None:
        side = network.img_resolution * (VAE_FACTOR if has_vae else 1)
        each = side * side * (3 if has_vae or network.img_channels >= 3 else 1)
        most = MAX_GRID_BYTES if self.format == "grid" else MAX_BYTES
        if len(self.seeds) * each <= most:
            return None
        return Misfit(
            "seeds",
            f"seeds names {len(self.seeds):,} pictures of {side}x{side} pixels; format {self.format} holds at most "
            f"{most // each:,} of them",
        )

    def label(self, label_dim: int, names: Sequence[str] = ()) -> int | Literal["random"] | None:
        """The class for the sampler. `names`: those of the dataset's classes, by number. Raises UnknownClass."""
        if not isinstance(self.class_label, str):
            return self.class_label
        if self.class_label == RANDOM:
            return "random"
        if self.class_label not in names[:label_dim]:
            known = f"its classes are {_some(names)}" if names else "its dataset knows no names of classes"
            raise UnknownClass(f"class_label {self.class_label!r} is no class of this network: {known}")
        return names.index(self.class_label)

    @property
    def needs_names(self) -> bool:
        """Whether the class is given by name."""
        return isinstance(self.class_label, str) and self.class_label != RANDOM


def _allowed(label_dim: int) -> str:
    if not label_dim:
        return "is not possible: this network knows no classes, only random or none is allowed"
    return f"is no class of this network; allowed: 0 to {label_dim - 1}, random, none"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
