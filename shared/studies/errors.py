"""A study that cannot be done as requested."""

from __future__ import annotations


class StudyError(ValueError):
    """`field`: dotted path of the wrong field of the request. The text is one sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field
