"""What is known of a dataset without reading it, so that a mistake is named before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.datasets.errors import DatasetError
from shared.edm2.config import NetworkConfig


class DatasetChoice(Protocol):
    """What must be said of a dataset to use it; `shared.recipes.DatasetConfig` is one."""

    @property
    def name(self) -> str: ...

    @property
    def held_out(self) -> int: ...


@dataclass(frozen=True)
class DatasetFacts:
    """Size and shape of a dataset; `num_pictures` counts those for training and those held out."""

    name: str
    num_pictures: int
    resolution: int
    channels: int
    num_classes: int

    def check_held_out(self, held_out: int) -> None:
        """Raises DatasetError when nothing would remain to train on."""
        if held_out >= self.num_pictures:
            raise DatasetError(
                f"dataset.held_out is {held_out}, but {self.name} has {self.num_pictures} pictures; hold out fewer"
            )

    def check_network(self, network: NetworkConfig) -> None:
        """Raises DatasetError when `network` cannot take these pictures; an unconditional network ignores labels."""
        needs = (
            ("img_resolution", network.img_resolution, self.resolution),
            ("img_channels", network.img_channels, self.channels),
        )
        for field, given, needed in needs:
            if given != needed:
                raise DatasetError(f"network.{field} is {given}, but the pictures of {self.name} need {needed}")
        if network.label_dim not in (0, self.num_classes):
            raise DatasetError(
                f"network.label_dim is {network.label_dim}, but {self.name} has {self.num_classes} classes; "
                f"use {self.num_classes}, or 0 for an unconditional network"
            )


DIGITS = DatasetFacts("digits", num_pictures=1797, resolution=8, channels=1, num_classes=10)
DATASETS = {facts.name: facts for facts in (DIGITS,)}


def describe(choice: DatasetChoice) -> DatasetFacts:
    """The facts of the chosen dataset. Reads nothing. Raises DatasetError when there is none of that name."""
    if choice.name not in DATASETS:
        raise DatasetError(f"dataset {choice.name!r} is unknown; allowed: {', '.join(DATASETS)}")
    facts = DATASETS[choice.name]
    facts.check_held_out(choice.held_out)
    return facts


def check_dataset(choice: DatasetChoice, network: NetworkConfig) -> None:
    """Raises DatasetError unless `network` can be trained on the chosen dataset. Reads nothing."""
    describe(choice).check_network(network)
