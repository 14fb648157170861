"""Checks patterns of tensor names against the tensors of the run, before any work starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from phema.services.api.http.problems import FieldError, Invalid
from phema.services.api.reconstructions.schemas import ReconstructionCreate
from phema.shared.snapshots.files.header import is_average, read_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import TensorProfile
from phema.shared.snapshots.stores.interface import ObjectStore

_CLOSE = 3


def check_patterns(body: ReconstructionCreate, store: ObjectStore, snapshots: Sequence[StoredSnapshot]) -> None:
    """Every pattern must be the first to match some averaged tensor. Reads the header of one of the run's files.

    Raises Invalid; ObjectMissing, CorruptObject and the store's other errors.
    """
    lists = list(_pattern_lists(body))
    if not lists:
        return
    latest = snapshots[-1]
    header = read_header(store, latest.key, size=latest.size)
    buffers = header.metadata.buffers if header.metadata else ()
    names = sorted(entry.name for entry in header.tensors if is_average(entry.name, entry.dtype, buffers))
    wrong = [error for field, tensors in lists for error in _unused(field, tensors, names)]
    if wrong:
        raise Invalid(wrong)


def _pattern_lists(body: ReconstructionCreate) -> Iterator[tuple[str, Sequence[TensorProfile]]]:
    """The lists of patterns, each with its path in the body."""
    if body.tensors:
        yield "tensors", body.tensors
    for index, profile in enumerate(body.profiles or ()):
        if profile.tensors:
            yield f"profiles.{index}.tensors", profile.tensors


def _unused(field: str, tensors: Sequence[TensorProfile], names: Sequence[str]) -> Iterator[FieldError]:
    """One error for each pattern that decides no tensor."""
    left = list(names)
    for index, tensor in enumerate(tensors):
        place, pattern = f"{field}.{index}.pattern", tensor.pattern
        matching = [name for name in left if fnmatchcase(name, pattern)]
        left = [name for name in left if name not in matching]
        if matching:
            continue
        if any(fnmatchcase(name, pattern) for name in names):
            yield FieldError("body", place, f"{place} {pattern!r} matches only tensors that earlier patterns decide")
            continue
        close = difflib.get_close_matches(pattern, names, n=_CLOSE, cutoff=0.4) or list(names[:_CLOSE])
        near = ", ".join(close)
        yield FieldError(
            "body",
            place,
            f"{place} {pattern!r} matches none of the run's {len(names)} averaged tensors, such as {near}",
        )
