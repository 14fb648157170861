"""Why a request is refused: one sentence, and the field of the request that is wrong."""

from __future__ import annotations

from collections.abc import Sequence


class SubmissionError(ValueError):
    """The request is refused. `field`: dotted path of the wrong field; empty when the request as a whole is wrong."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class InvalidFields(SubmissionError):
    """Fields are wrong, whatever the state of the catalog becomes. `problems`: (field, sentence) of each."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        """`problems` must not be empty."""
        super().__init__(problems[0][0], "; ".join(sentence for _, sentence in problems))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, field: str, sentence: str) -> InvalidFields:
        """One wrong field."""
        return cls([(field, sentence)])


class NoSnapshots(SubmissionError):
    """The run has not written a snapshot yet."""


class NotFinished(SubmissionError):
    """The request builds on a result that is not finished or has failed."""


class SnapshotsGone(SubmissionError):
    """Retention retired planned snapshots meanwhile; the same request may succeed when it is planned again."""
