"""Checks that snapshot files hold the same tensors. A reconstruction combines the files of a run tensor by tensor.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from phema.shared.snapshots.files.header import TensorEntry, is_average


@dataclass(frozen=True)
class TensorLayout:
    """What must be the same for a tensor in all snapshot files of a run."""

    shape: tuple[int, ...]
    dtype: str | None
    """Safetensors' name of the dtype of a copied tensor; None for an average, whose dtype may differ between files."""

    def __str__(self) -> str:
        return (
            f"averaged with shape {self.shape}"
            if self.dtype is None
            else f"copied with shape {self.shape} and dtype {self.dtype}"
        )


@dataclass(frozen=True)
class LayoutDifference:
    """The first tensor, by name, that differs between two files, and a description of it in each."""

    name: str
    found: str
    expected: str


def layouts_of(tensors: Iterable[TensorEntry], buffers: Collection[str]) -> dict[str, TensorLayout]:
    """Layout of each tensor by name. `buffers` are the names in the file's metadata."""
    copied = frozenset(buffers)
    return {t.name: TensorLayout(t.shape, None if is_average(t.name, t.dtype, copied) else t.dtype) for t in tensors}


def first_difference(
    found: Mapping[str, TensorLayout], expected: Mapping[str, TensorLayout]
) -> LayoutDifference | None:
    """The first difference between two files, or None."""
    if found == expected:
        return None
    name = min(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return LayoutDifference(name, str(found.get(name, "missing")), str(expected.get(name, "missing")))
