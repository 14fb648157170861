"""Numbers and sizes as text."""

from __future__ import annotations

import math


def count(value: int) -> str:
    """A number of things, such as 76,800."""
    return f"{value:,}"


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


def figure_with_error(value: float | None, error: float | None) -> str:
    """A figure with its standard error, with two significant digits of the error: 0.377 ± 0.012."""
    if value is None or not error:
        return figure(value)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def figure(value: float | None) -> str:
    """A number with four significant digits; a dash for None."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")


def with_error(value: float | None, error: float | None) -> str:
    """A number with its standard error, such as 0.4321 ± 0.012; without the error where there is none."""
    return figure(value) if value is None or error is None else f"{figure(value)} ± {error:.2g}"
