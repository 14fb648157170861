"""Lists of sigma_rel such as `0.05,0.10,...,0.25`, as options accept them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT

MOST = 256
"""Largest number of values. A typing error could ask for millions."""
DIGITS = 20
"""Largest number of digits before or after the decimal point. Up to there, decimal arithmetic is exact."""


class RangeError(ValueError):
    """The text is not a valid list. The message names the wrong part and what is allowed."""


def sigma_rels(text: str) -> tuple[float, ...]:
    """The values of `text`, in order: numbers between commas; `a,b,...,c` is an arithmetic range.

    The arithmetic is decimal, so that 0.05,0.10,...,0.25 contains exactly the float nearest to 0.15.
    Raises RangeError unless every value is a distinct number with 0 < sigma_rel < 0.2887.
    """
    values = expand(text)
    for decimal in values:
        if not 0 < decimal < Decimal(SIGMA_REL_LIMIT):
            raise RangeError(f"sigma_rel {decimal} is impossible; it must be above 0 and below {SIGMA_REL_LIMIT:.4f}")
    floats = tuple(map(float, values))
    for i, value in enumerate(floats):
        if value in floats[:i]:
            raise RangeError(f"{text!r} names sigma_rel {values[i]} twice")
    return floats


def expand(text: str) -> list[Decimal]:
    """The numbers of a comma-separated list, each `...` replaced by its numbers. Raises RangeError."""
    parts = [part.strip() for part in text.replace("…", "...").split(",")]
    values: list[Decimal] = []
    i = 0
    while i < len(parts):
        if parts[i] == "...":
            if i + 1 == len(parts) or parts[i + 1] == "...":
                raise RangeError(f"the ... in {text!r} needs a number after it, as in 0.05,0.10,...,0.25")
            i += 1
            values += _fill(values, _number(parts[i], text), text)
        else:
            values.append(_number(parts[i], text))
        if len(values) > MOST:
            raise RangeError(f"{text!r} names more than {MOST} values")
        i += 1
    return values


def _number(part: str, text: str) -> Decimal:
    try:
        number = Decimal(part)
    except InvalidOperation:
        what = "an empty place" if not part else repr(part)
        raise RangeError(f"{text!r} contains {what} where a number or ... should be") from None
    if not number.is_finite() or abs(number.adjusted()) > DIGITS:
        raise RangeError(f"{text!r} contains {part!r}, which is no usable number")
    return number


def _fill(before: Sequence[Decimal], end: Decimal, text: str) -> list[Decimal]:
    """The numbers after `before` up to and including `end`, with the step between the last two of `before`."""
    if len(before) < 2:
        raise RangeError(f"the ... in {text!r} needs two numbers before it, as in 0.05,0.10,...,0.25")
    first, last = before[-2:]
    step = last - first
    if step == 0:
        raise RangeError(f"the range in {text!r} never moves: {first} and {last} are equal")
    steps = (end - last) / step
    if steps < 1:
        raise RangeError(f"the range in {text!r} steps by {step} and cannot reach {end} from {last}")
    if steps > MOST:
        raise RangeError(f"the range in {text!r} has {int(steps)} values; {MOST} are allowed")
    if steps != steps.to_integral_value():
        near = last + int(steps) * step
        raise RangeError(
            f"the range in {text!r} steps by {step} and misses {end}; it could end at {near} or {near + step}"
        )
    return [last + k * step for k in range(1, int(steps) + 1)]
