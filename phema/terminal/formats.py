"""Numbers, sizes and times as the command prints them."""

from __future__ import annotations

from typing import Any


def duration(seconds: float) -> str:
    """A time span as 1:05 (minutes, seconds) or 2:03:04 (hours, minutes, seconds)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int | None) -> str:
    """A number of bytes, such as 812 B or 3.4 MiB."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def when(moment: Any) -> str:
    """A date and time in the user's time zone; empty for None."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def figure(value: float | None) -> str:
    """A number with four significant digits; a dash for None."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
