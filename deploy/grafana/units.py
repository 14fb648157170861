"""Numbers as Grafana writes them: three significant digits and the unit's own steps."""

from __future__ import annotations

import math

_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "short": ((1.0, ""), (1e3, " K"), (1e6, " Mil"), (1e9, " Bil"), (1e12, " Tri")),
    "bytes": ((1.0, " B"), (2.0**10, " KiB"), (2.0**20, " MiB"), (2.0**30, " GiB"), (2.0**40, " TiB")),
    "Bps": ((1.0, " B/s"), (1e3, " kB/s"), (1e6, " MB/s"), (1e9, " GB/s")),
    "reqps": ((1.0, " req/s"), (1e3, "K req/s"), (1e6, "M req/s")),
    "s": (
        (1e-9, " ns"),
        (1e-6, " µs"),
        (1e-3, " ms"),
        (1.0, " s"),
        (60.0, " min"),
        (3600.0, " hour"),
        (86400.0, " day"),
    ),
    "percentunit": ((0.01, "%"),),
}
"""Smallest value of each step, and what it is called."""
UNITS = frozenset(_STEPS)


def written(value: float, unit: str) -> str:
    """`value` in Grafana's `unit`, such as `1.25 GiB`. Raises KeyError for a unit that no panel uses yet."""
    steps = _STEPS[unit]
    if not math.isfinite(value):
        return str(value)
    size = step(value, unit)
    return _digits(value / size) + dict(steps)[size]


def step(value: float, unit: str) -> float:
    """The size of the step in which `value` is written: 60.0 for three minutes. Raises KeyError as `written` does."""
    if value == 0 and unit != "percentunit":
        return 1.0
    return max((size for size, _ in _STEPS[unit] if abs(value) >= size), default=_STEPS[unit][0][0])


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
