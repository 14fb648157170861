"""Errors of datasets."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SHOWN = 20
"""Number of refused pictures that an error names."""


class DatasetError(ValueError):
    """The dataset does not exist, is broken, or does not fit the request. The message is one sentence."""


class UnreadableFile(DatasetError):
    """One file of a dataset cannot be used: `.name` within the dataset, and `.why`, the end of the sentence."""

    def __init__(self, name: str, where: str, why: str) -> None:
        super().__init__(f"{name} in dataset {where} cannot be read: {why}")
        self.name, self.why = name, why


class PicturesRefused(DatasetError):
    """Pictures of a dataset cannot be converted: `.refused` holds (name, why) of each, in the order of the names."""

    def __init__(self, where: str, refused: Sequence[tuple[str, str]], total: int) -> None:
        shown = [f"{name}: {why}" for name, why in refused[:MOST_SHOWN]]
        more = [f"and {len(refused) - MOST_SHOWN} more"] if len(refused) > MOST_SHOWN else []
        super().__init__(
            f"{len(refused)} of {total} pictures in dataset {where} cannot be converted; repair or remove them, or "
            f"leave them out with --skip-bad: {'; '.join([*shown, *more])}"
        )
        self.refused = tuple(refused)


class HubUnreachable(ConnectionError):
    """The hub of a VAE does not answer and there is no local copy. A retry may help. The message is one sentence."""
