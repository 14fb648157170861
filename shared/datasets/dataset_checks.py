"""Checks of a dataset that need no reading, so that mistakes are reported before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import isabs
from typing import Literal, NamedTuple, Protocol

from phema.shared.datasets.errors import DatasetError
from phema.shared.edm2.networks.config import NetworkConfig


class DatasetChoice(Protocol):
    """The fields that choose a dataset. `phema.shared.recipes.run_config.DatasetConfig` implements it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def held_out(self) -> int: ...

    @property
    def max_images(self) -> int | None: ...

    @property
    def flip(self) -> bool: ...

    @property
    def labels(self) -> Literal["classes", "vectors"]: ...

    @property
    def vae(self) -> str | None: ...


class Problem(NamedTuple):
    """One field of a configuration that does not fit a dataset, and a sentence that begins with it."""

    field: str
    sentence: str


@dataclass(frozen=True)
class DatasetInfo:
    """Size and shape of a dataset. `num_pictures` counts the pictures for training and those held out.

    `resolution` and `channels` are those of the network's input: of latents, those of the mean. `num_classes` is 0
    without classes, and `vector_size` is 0 unless labels are vectors of that many values.
    """

    name: str
    num_pictures: int
    resolution: int
    channels: int
    num_classes: int
    encoding: Literal["pictures", "latents"] = "pictures"
    fingerprint: str = ""
    """Equal for equal datasets. A resumed run compares it, so that it cannot go on with other pictures."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by label: those of the class folders, or those in dataset.json; empty if unknown."""
    vector_size: int = 0

    @property
    def label_dim(self) -> int:
        """Length of the label that a network of these pictures takes; 0 without labels."""
        return self.num_classes or self.vector_size

    def choice_problems(self, choice: DatasetChoice) -> list[Problem]:
        """Fields of the choice that this dataset does not allow."""
        found = []
        if choice.held_out >= self.num_pictures:
            found.append(
                Problem(
                    "dataset.held_out",
                    f"dataset.held_out is {choice.held_out}, but {self.name} has {self.num_pictures} pictures; "
                    "hold out fewer",
                )
            )
        if choice.vae is not None and self.encoding != "latents":
            sentence = f"dataset.vae is {choice.vae}, but {self.name} holds pictures, not latents; leave it out"
            found.append(Problem("dataset.vae", sentence))
        if choice.flip and self.encoding == "latents":
            sentence = f"dataset.flip is true, but {self.name} holds latents, which cannot be mirrored; use false"
            found.append(Problem("dataset.flip", sentence))
        kind = "vectors" if self.vector_size else "classes"
        if choice.labels != kind and self.label_dim:
            sentence = f"dataset.labels is {choice.labels}, but the labels of {self.name} are {kind}; use {kind}"
            found.append(Problem("dataset.labels", sentence))
        elif choice.labels == "vectors" and not self.label_dim:
            sentence = f"dataset.labels is vectors, but {self.name} has no labels; leave it out"
            found.append(Problem("dataset.labels", sentence))
        return found

    def network_problems(self, network: NetworkConfig) -> list[Problem]:
        """Fields of a network that cannot take these pictures. An unconditional network ignores labels."""
        needs = (
            ("network.img_resolution", network.img_resolution, self.resolution),
            ("network.img_channels", network.img_channels, self.channels),
        )
        found = [
            Problem(field, f"{field} is {given}, but the pictures of {self.name} need {needed}")
            for field, given, needed in needs
            if given != needed
        ]
        field, given, needed = "network.label_dim", network.label_dim, self.label_dim
        if given and not needed:
            found.append(Problem(field, f"{field} is {given}, but {self.name} has no labels; use 0"))
        elif given not in (0, needed):
            what = f"{needed} classes" if self.num_classes else f"label vectors of {needed} values"
            sentence = (
                f"{field} is {given}, but {self.name} has {what}; use {needed}, or 0 for an unconditional network"
            )
            found.append(Problem(field, sentence))
        return found

    def check_choice(self, choice: DatasetChoice) -> None:
        """Raises DatasetError, which names every field of the choice that this dataset does not allow."""
        _refuse(self.choice_problems(choice))

    def check_network(self, network: NetworkConfig) -> None:
        """Raises DatasetError, which names every field of a network that cannot take these pictures."""
        _refuse(self.network_problems(network))


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise DatasetError("; ".join(problem.sentence for problem in problems))


DIGITS = DatasetInfo(
    "digits", num_pictures=1797, resolution=8, channels=1, num_classes=10, fingerprint="scikit-learn digits"
)
DATASETS = {info.name: info for info in (DIGITS,)}
"""The built-in datasets, by name. All others are the user's own."""


def check_choice(choice: DatasetChoice) -> None:
    """Raises DatasetError unless the choice names a built-in dataset or a valid path. Reads nothing."""
    if choice.name in DATASETS:
        if choice.path is not None:
            raise DatasetError(
                f"dataset.path is {choice.path}, but {choice.name} is built in; "
                "leave dataset.path out, or give your dataset a dataset.name of its own"
            )
        DATASETS[choice.name].check_choice(choice)
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
    """Raises DatasetError if `network` cannot be trained on the chosen dataset. Reads nothing.

    Of a user's own dataset only the choice is checked, as its size and shape are not known yet.
    """
    check_choice(choice)
    if choice.name in DATASETS:
        DATASETS[choice.name].check_network(network)
