"""Numbers and times in words, as the pages show them."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Protocol

DASH = "–"


class HasProfile(Protocol):
    """An answer of the API about weights."""

    @property
    def label(self) -> str: ...
    @property
    def sigma_rel(self) -> float | None: ...


def count(value: float | None) -> str:
    """A number of images or parameters: 12,800."""
    return DASH if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """The same in few characters: 12.8k, 1.7M."""
    if value is None:
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def bytes_(value: float | None) -> str:
    """A size: 12.3 MiB."""
    if value is None:
        return DASH
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def figure(value: float | None) -> str:
    """A measured value with four significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def error(value: float | None) -> str:
    """A relative error as a percentage: 0.012 %."""
    if value is not None and 0 < value < 1e-6:
        return "< 0.0001 %"
    return DASH if value is None else f"{100 * value:.2g} %"


def sigma(value: float | None) -> str:
    """A relative EMA length: 0.13."""
    return DASH if value is None else f"{value:.4g}"


def average(weights: HasProfile) -> str:
    """How weights average the training history: σ_rel 0.13, or the name of another profile."""
    return weights.label if weights.sigma_rel is None else f"σ_rel {sigma(weights.sigma_rel)}"


def duration(seconds: float | None) -> str:
    """A time span: 45 s, 12 min, 3.4 h, 2.1 days."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def ago(at: float | None) -> str:
    """How long ago a time is, in seconds since the epoch: 12 min ago."""
    return DASH if at is None else f"{duration(max(1.0, time.time() - at))} ago"


def utc(at: float | None) -> str:
    """A time in UTC: 2026-11-30 14:05:12Z."""
    return DASH if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


FILTERS = {
    "count": count,
    "short_count": short_count,
    "bytes": bytes_,
    "figure": figure,
    "error": error,
    "sigma": sigma,
    "average": average,
    "duration": duration,
    "ago": ago,
    "utc": utc,
}
