"""From a dataset's name to its pictures."""

from __future__ import annotations

from shared.datasets.digits import load_digits
from shared.datasets.facts import DatasetChoice, describe
from shared.datasets.pictures import Dataset

_OPENERS = {"digits": load_digits}


def open_dataset(choice: DatasetChoice) -> Dataset:
    """The chosen dataset, split into training and held-out pictures. Raises DatasetError."""
    return _OPENERS[describe(choice).name](held_out=choice.held_out)
