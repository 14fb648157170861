"""What is known of a dataset without reading it, so that a mistake is named before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import isabs
from typing import Literal, Protocol

from phema.shared.datasets.errors import DatasetError
from phema.shared.edm2.networks.config import NetworkConfig


class DatasetChoice(Protocol):
    """What must be said of a dataset to use it; `phema.shared.recipes.DatasetConfig` is one."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def held_out(self) -> int: ...

    @property
    def vae(self) -> str | None: ...


@dataclass(frozen=True)
class DatasetInfo:
    """Size and shape of a dataset; `num_pictures` counts those for training and those held out.

    `resolution` and `channels` are the network's: of latents, those of a mean. `num_classes` is 0 without labels.
    """

    name: str
    num_pictures: int
    resolution: int
    channels: int
    num_classes: int
    encoding: Literal["pictures", "latents"] = "pictures"
    fingerprint: str = ""
    """Equal for equal datasets: a run that is resumed on another would go on with other pictures."""

    def check_held_out(self, held_out: int) -> None:
        """Raises DatasetError when nothing would remain to train on."""
        if held_out >= self.num_pictures:
            raise DatasetError(
                f"dataset.held_out is {held_out}, but {self.name} has {self.num_pictures} pictures; hold out fewer"
            )

    def check_vae(self, vae: str | None) -> None:
        """Raises DatasetError when there is nothing to decode."""
        if vae is not None and self.encoding != "latents":
            raise DatasetError(f"dataset.vae is {vae}, but {self.name} holds pictures, not latents; leave it out")

    def check_network(self, network: NetworkConfig) -> None:
        """Raises DatasetError when `network` cannot take these pictures; an unconditional network ignores labels."""
        needs = (
            ("img_resolution", network.img_resolution, self.resolution),
            ("img_channels", network.img_channels, self.channels),
        )
        for field, given, needed in needs:
            if given != needed:
                raise DatasetError(f"network.{field} is {given}, but the pictures of {self.name} need {needed}")
        if network.label_dim and not self.num_classes:
            raise DatasetError(f"network.label_dim is {network.label_dim}, but {self.name} has no labels; use 0")
        if network.label_dim not in (0, self.num_classes):
            raise DatasetError(
                f"network.label_dim is {network.label_dim}, but {self.name} has {self.num_classes} classes; "
                f"use {self.num_classes}, or 0 for an unconditional network"
            )


DIGITS = DatasetInfo(
    "digits", num_pictures=1797, resolution=8, channels=1, num_classes=10, fingerprint="scikit-learn digits"
)
DATASETS = {info.name: info for info in (DIGITS,)}
"""Those that are built in; all others are the user's own."""


def check_choice(choice: DatasetChoice) -> None:
    """Raises DatasetError unless the choice names a built-in dataset or where another lies. Reads nothing."""
    if choice.name in DATASETS:
        if choice.path is not None:
            raise DatasetError(
                f"dataset.path is {choice.path}, but {choice.name} is built in; "
                "leave dataset.path out, or give your dataset a dataset.name of its own"
            )
        DATASETS[choice.name].check_held_out(choice.held_out)
        DATASETS[choice.name].check_vae(choice.vae)
        return
    if choice.path is None:
        raise DatasetError(
            f"dataset.name is {choice.name}, which is not built in ({', '.join(DATASETS)} is): "
            "dataset.path must name its folder, zip file or s3:// URL"
        )
    scheme, separator, rest = choice.path.partition("://")
    if (separator and (scheme != "s3" or not rest.strip("/"))) or (not separator and not isabs(choice.path)):
        raise DatasetError(
            f"dataset.path is {choice.path}; it must be an absolute path of a folder or zip file, "
            "or s3://bucket/prefix or s3://bucket/file.zip"
        )


def check_dataset(choice: DatasetChoice, network: NetworkConfig) -> None:
    """Raises DatasetError when `network` cannot be trained on the chosen dataset, as far as that is known unread."""
    check_choice(choice)
    if choice.name in DATASETS:
        DATASETS[choice.name].check_network(network)
