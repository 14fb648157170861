"""Recorded examples keep the values of the recording before where only chance changed them.

Every recording has other ids, times, ports and durations. `kept` puts the earlier values in their place, so that the
difference of two recordings is what really changed.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from typing import Any

_NAMES = re.compile(r"\b(?:run|job|snap|rec|eval|basis|smp|mdl|req)-[0-9a-f]{12,16}\b|\b[0-9a-f]{64}\b")
"""Ids and SHA-256: the same one appears in many places, so it is replaced by the same text everywhere."""
_CHANCE = re.compile(
    r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"  # times
    r"|\b\d{4}-\d\d-\d\d \d\d:\d\d UTC"  # times for people
    r"|\b127\.0\.0\.1:\d+"  # addresses of processes
    r"|\b\w+@[\w.-]+:\d+"  # owners of jobs: service@host:pid
    r"|\b\d+ of \d+ images"  # progress when a job last reported it
)
"""Texts that belong to one place each."""
_DETERMINISTIC = frozenset({"config_hash"})
_TIMINGS = re.compile(r"seconds|step_seconds/.*|images_per_second|data_wait_share")
_ROUNDING = 1e-6
"""Relative difference of figures that are added up in another order."""


def kept(recorded: Any, before: Any) -> Any:
    """`recorded` with the chance values of `before`, which has the same shape where nothing changed."""
    names: dict[str, str] = {}
    _pair_names(recorded, before, names)
    return _kept(recorded, before, "", lambda text: _NAMES.sub(lambda match: names.get(match[0], match[0]), text))


def _pair_names(recorded: Any, before: Any, names: dict[str, str], field: str = "") -> None:
    """Enter each id and hash of `recorded`, with the one at the same place of `before`; the first place counts."""
    if isinstance(recorded, dict) and isinstance(before, dict):
        for name, value in recorded.items():
            _pair_names(value, before.get(name), names, name)
    elif isinstance(recorded, list) and isinstance(before, list):
        for value, old in zip(recorded, before, strict=False):
            _pair_names(value, old, names, field)
    elif isinstance(recorded, str) and isinstance(before, str) and field not in _DETERMINISTIC:
        found, old_found = _NAMES.findall(recorded), _NAMES.findall(before)
        if [_kind(name) for name in found] == [_kind(name) for name in old_found]:
            for name, old in zip(found, old_found, strict=True):
                if name not in names and old not in names.values():
                    names[name] = old


def _decoded(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()


def _encoded(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _kind(name: str) -> str:
    return name.rpartition("-")[0]


def _kept(recorded: Any, before: Any, field: str, rename: Callable[[str], str]) -> Any:
    if isinstance(recorded, dict):
        old = before if isinstance(before, dict) else {}
        names = [name for name in old if name in recorded] + [name for name in recorded if name not in old]
        # Exchanges have the order of the scenario; the order of other fields may depend on timing.
        order = list(recorded) if not field else names
        return {name: _kept(recorded[name], old.get(name), name, rename) for name in order}
    if isinstance(recorded, list):
        old_items = before if isinstance(before, list) else []
        return [
            _kept(value, old_items[index] if index < len(old_items) else None, field, rename)
            for index, value in enumerate(recorded)
        ]
    if isinstance(recorded, str):
        text = recorded if field in _DETERMINISTIC else rename(recorded)
        if field == "next_cursor":
            text = _encoded(rename(_decoded(recorded)))
        same = isinstance(before, str) and _CHANCE.sub("…", text) == _CHANCE.sub("…", before)
        return before if same else text
    is_number = isinstance(recorded, float) and isinstance(before, float)
    if is_number and (_TIMINGS.fullmatch(field) or math.isclose(recorded, before, rel_tol=_ROUNDING)):
        return before
    return recorded
