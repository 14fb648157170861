"""The error of a request that cannot be scored."""

from __future__ import annotations


class ScoringError(ValueError):
    """Pictures cannot be scored as requested; every attempt would fail. The message is one sentence.

    `field` names the field of the request that is wrong, for example `metrics` or `num_samples`.
    """

    def __init__(self, message: str, field: str = "metrics") -> None:
        super().__init__(message)
        self.field = field
