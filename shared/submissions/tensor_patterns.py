"""Checks patterns of tensor names against the tensors of the run, before any work starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from phema.shared.snapshots.files.header import is_average, read_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import TensorProfile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.submissions.errors import InvalidFields

PatternLists = Sequence[tuple[str, Sequence[TensorProfile]]]
"""Lists of patterns, each with its path in the request."""
_MOST_SHOWN = 20
"""Number of wrong patterns that are described."""

_CLOSE = 3
_SUGGESTED = 3
"""Number of wrong patterns for which similar names are searched; the search takes a millisecond per hundred names."""
_SEARCHED = 2_000
"""Number of names in which they are searched."""


def check_patterns(lists: PatternLists, store: ObjectStore, snapshots: Sequence[StoredSnapshot]) -> None:
    """Every pattern must be the first to match some averaged tensor. Reads the header of one of the run's files.

    Raises InvalidFields; ObjectMissing, CorruptObject and the store's other errors.
    """
    if not lists:
        return
    latest = snapshots[-1]
    header = read_header(store, latest.key, size=latest.size)
    buffers = frozenset(header.metadata.buffers if header.metadata else ())
    names = sorted(entry.name for entry in header.tensors if is_average(entry.name, entry.dtype, buffers))
    unused = (pattern for field, tensors in lists for pattern in _unused(field, tensors, names))
    # A sweep may name thousands of patterns; the others are not searched once enough are wrong.
    if shown := list(islice(unused, _MOST_SHOWN)):
        raise InvalidFields([_problem(pattern, names, suggest=i < _SUGGESTED) for i, pattern in enumerate(shown)])


@dataclass(frozen=True)
class _Unused:
    """A pattern that decides no tensor. `place` is its path in the request."""

    place: str
    pattern: str
    hidden: bool
    """Whether it matches tensors, all of which earlier patterns decide."""


def _unused(field: str, tensors: Sequence[TensorProfile], names: Sequence[str]) -> Iterator[_Unused]:
    left = set(names)
    for index, tensor in enumerate(tensors):
        matching = {name for name in names if fnmatchcase(name, tensor.pattern)}
        if not matching & left:
            yield _Unused(f"{field}.{index}.pattern", tensor.pattern, bool(matching))
        left -= matching


def _problem(unused: _Unused, names: Sequence[str], *, suggest: bool) -> tuple[str, str]:
    place, given = unused.place, f"{unused.place} {unused.pattern!r}"
    if unused.hidden:
        return place, f"{given} matches only tensors that earlier patterns decide"
    searched = names[:_SEARCHED] if suggest else ()
    close = difflib.get_close_matches(unused.pattern, searched, n=_CLOSE, cutoff=0.4) or list(names[:_CLOSE])
    near = ", ".join(name[:100] for name in close)
    return place, f"{given} matches none of the run's {len(names)} averaged tensors, such as {near}"
