"""The attempts at a job, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from phema.client.response_models import Attempt
from phema.terminal.formats import duration, when
from phema.terminal.screen import Screen

MOST_SHOWN = 10


def show_attempts(view: Screen, attempts: Sequence[Attempt], *, width: int | None = None) -> None:
    """Print the latest attempts, oldest first: number, times, outcome, cause and error."""
    rows = [
        (
            str(one.number),
            one.outcome or "running",
            when(one.started_at),
            _took(one),
            one.cause or "",
            one.error or "",
        )
        for one in attempts[-MOST_SHOWN:]
    ]
    view.table(("ATTEMPT", "OUTCOME", "BEGAN", "TOOK", "CAUSE", "ERROR"), rows, right=("ATTEMPT", "TOOK"), width=width)


def _took(attempt: Attempt) -> str:
    if attempt.started_at is None or attempt.ended_at is None:
        return ""
    return duration((attempt.ended_at - attempt.started_at).total_seconds())
