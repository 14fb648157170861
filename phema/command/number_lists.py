"""Lists of numbers that options take as axes: `1,1.5,2` or `64,128,...,512`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from phema.command.sigma_rel_lists import RangeError, expand, sigma_rels
from phema.errors import InvalidArgument

N = TypeVar("N")


def widths(option: str, text: str | None) -> list[float] | None:
    """Distinct sigma_rel values; None for an option that is not given. Raises InvalidArgument."""
    return None if text is None else list(_read(option, text, sigma_rels))


def numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers of any kind; None for an option that is not given. Raises InvalidArgument."""
    return None if text is None else [float(value) for value in _read(option, text, expand)]


def counts(option: str, text: str | None) -> list[int] | None:
    """Whole numbers; None for an option that is not given. Raises InvalidArgument."""
    if text is None:
        return None
    values = _read(option, text, expand)
    for value in values:
        if value != int(value):
            raise InvalidArgument(f"{option} {value} must be a whole number")
    return [int(value) for value in values]


def intervals(option: str, texts: list[str] | None) -> list[list[float] | None] | None:
    """Noise levels `LOW,HIGH` of a repeated option; `all` stands for no interval. Raises InvalidArgument."""
    return None if not texts else [_interval(option, text) for text in texts]


def _interval(option: str, text: str) -> list[float] | None:
    if text == "all":
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"{option} {text!r} must be two noise levels LOW,HIGH, such as 0.2,1.6, or the word all"
        ) from None
    return [low, high]


def _read(option: str, text: str, read: Callable[[str], Sequence[N]]) -> Sequence[N]:
    try:
        return read(text)
    except RangeError as error:
        raise InvalidArgument(f"{option}: {error}") from None
