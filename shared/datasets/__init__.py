"""Pictures in, batches out.

`open_dataset` gives the pictures a configuration names, `EpochSampler` the order in which a run sees them.
"""

from __future__ import annotations

from typing import Protocol

from shared.datasets.digits import load_digits
from shared.datasets.errors import DatasetError
from shared.datasets.pictures import Dataset, Pictures
from shared.datasets.sampler import EpochSampler

__all__ = ["Dataset", "DatasetChoice", "DatasetError", "EpochSampler", "Pictures", "open_dataset"]


class DatasetChoice(Protocol):
    """What `open_dataset` needs to know; `shared.recipes.DatasetConfig` is one."""

    @property
    def name(self) -> str: ...

    @property
    def held_out(self) -> int: ...


_OPENERS = {"digits": load_digits}


def open_dataset(choice: DatasetChoice) -> Dataset:
    """The dataset of that name, split into training and held-out pictures. Raises DatasetError."""
    if choice.name not in _OPENERS:
        raise DatasetError(f"dataset {choice.name!r} is unknown; allowed: {', '.join(_OPENERS)}")
    return _OPENERS[choice.name](held_out=choice.held_out)
