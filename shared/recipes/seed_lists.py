"""Lists of seeds as text: `0-63,100` stands for the seeds 0 to 63 and 100."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MAX_SEED = 2**31 - 1
MAX_SEEDS = 100_000
_PART = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)
_SHOWN = 60


def parse_seeds(given: Any) -> tuple[int, ...]:
    """The seeds of a text such as `0-63,100`, or of a list of integers, in their order.

    Raises ValueError, whose message continues a sentence that begins with the name of the field, unless the seeds are
    1 to MAX_SEEDS different integers from 0 to MAX_SEED.
    """
    if isinstance(given, str):
        parts = [_part(text.strip()) for text in given.split(",")]
    elif isinstance(given, Sequence) and all(type(seed) is int for seed in given):
        parts = [range(seed, seed + 1) for seed in given]
    else:
        raise ValueError(f"must be a list of integers or a text such as 0-63,100, not {_shown(given)}")
    # Counted before the ranges are expanded.
    count = sum(map(len, parts))
    if not 1 <= count <= MAX_SEEDS:
        raise ValueError(f"{_shown(given)} has {count:,} seeds; from 1 to {MAX_SEEDS:,} are allowed")
    seeds = tuple(seed for part in parts for seed in part)
    if not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        wrong = next(seed for seed in seeds if not 0 <= seed <= MAX_SEED)
        raise ValueError(f"has the seed {wrong}; seeds from 0 to {MAX_SEED} are allowed")
    if len(set(seeds)) < count:
        seen: set[int] = set()
        twice = next(seed for seed in seeds if seed in seen or seen.add(seed))  # type: ignore[func-returns-value]
        raise ValueError(f"names the seed {twice} twice; each may be named once")
    return seeds


def seeds_text(seeds: Sequence[int]) -> str:
    """The shortest text that `parse_seeds` turns into these seeds: equal lists have equal texts."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def _part(text: str) -> range:
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(f"has the part {_shown(text)}; parts are seeds or ranges, such as 0-63,100")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"has the range {text}, which must rise from its first seed to its last")
    return range(first, last + 1)


def _shown(given: Any) -> str:
    text = str(given)
    return repr(given) if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


Seeds = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_seeds),
    PlainSerializer(seeds_text, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}, mode="validation"),
]
"""A pydantic field: a list of integers or a text in requests, a tuple in Python, a text in answers."""
