"""Whether files hold the same tensors, as those of one run must: a reconstruction combines them tensor by tensor.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from phema.shared.snapshots.files.header import TensorEntry, is_average


@dataclass(frozen=True)
class Kind:
    """What must not change about a tensor from file to file."""

    shape: tuple[int, ...]
    dtype: str | None
    """Of one that is copied, by safetensors' name; None of an average, which may be stored in several."""

    def __str__(self) -> str:
        return (
            f"averaged with shape {self.shape}"
            if self.dtype is None
            else f"copied with shape {self.shape} and dtype {self.dtype}"
        )


@dataclass(frozen=True)
class Difference:
    """The first tensor, by name, that is not the same in two files, and what it is in each."""

    name: str
    one: str
    other: str


def kinds(tensors: Iterable[TensorEntry], buffers: Collection[str]) -> dict[str, Kind]:
    """By name, of a file whose metadata names these `buffers`."""
    return {t.name: Kind(t.shape, None if is_average(t.name, t.dtype, buffers) else t.dtype) for t in tensors}


def difference(one: Mapping[str, Kind], other: Mapping[str, Kind]) -> Difference | None:
    """None where files are alike."""
    if one == other:
        return None
    name = min(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return Difference(name, str(one.get(name, "missing")), str(other.get(name, "missing")))
