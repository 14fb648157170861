"""Patterns of tensor names, held against the tensors of the run before any work starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from phema.services.api.http.errors import FieldError, Invalid
from phema.services.api.reconstructions.schemas import ReconstructionCreate
from phema.shared.snapshots.files.header import is_average, read_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import TensorProfile
from phema.shared.snapshots.stores.interface import ObjectStore

_CLOSE = 3


def check_patterns(body: ReconstructionCreate, store: ObjectStore, snapshots: Sequence[StoredSnapshot]) -> None:
    """Every pattern must decide over a tensor that is averaged. Reads the header of one of the run's files.

    Raises Invalid; ObjectMissing, CorruptObject and the store's other errors.
    """
    asked = list(_asked(body))
    if not asked:
        return
    latest = snapshots[-1]
    header = read_header(store, latest.key, size=latest.size)
    buffers = header.metadata.buffers if header.metadata else ()
    names = sorted(entry.name for entry in header.tensors if is_average(entry.name, entry.dtype, buffers))
    wrong = [error for field, tensors in asked for error in _undecided(field, tensors, names)]
    if wrong:
        raise Invalid(wrong)


def _asked(body: ReconstructionCreate) -> Iterator[tuple[str, Sequence[TensorProfile]]]:
    """The lists of patterns and where they stand."""
    if body.tensors:
        yield "tensors", body.tensors
    for index, profile in enumerate(body.profiles or ()):
        if profile.tensors:
            yield f"profiles.{index}.tensors", profile.tensors


def _undecided(field: str, tensors: Sequence[TensorProfile], names: Sequence[str]) -> Iterator[FieldError]:
    """What is wrong with the patterns that no tensor obeys."""
    left = list(names)
    for index, tensor in enumerate(tensors):
        place, pattern = f"{field}.{index}.pattern", tensor.pattern
        obeying = [name for name in left if fnmatchcase(name, pattern)]
        left = [name for name in left if name not in obeying]
        if obeying:
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
