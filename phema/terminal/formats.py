"""Numbers, sizes and times as the command prints them."""

from __future__ import annotations

from typing import Any

from phema.client.display.numbers import figure, figure_with_error, size, with_error

__all__ = ["duration", "figure", "figure_with_error", "size", "when", "with_error"]


def duration(seconds: float) -> str:
    """A time span as 1:05 (minutes, seconds) or 2:03:04 (hours, minutes, seconds)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def when(moment: Any) -> str:
    """A date and time in the user's time zone; empty for None."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else ""
