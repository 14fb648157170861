"""From planned coefficients to the files that `reconstruct` writes: metadata, and coefficients by tensor name.

Workers and `phema.open` share this module, so that the same plan gives the same file. Torch is imported by
`output_specs` only: tasks are made without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.header import SnapshotMetadata, StoredDtype, is_average, read_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import RangedReader

if TYPE_CHECKING:
    from phema.shared.snapshots.combining.combiner import OutputSpec


@dataclass(frozen=True, kw_only=True)
class WantedOutput:
    """One file to write, of a reconstruction or of a basis. `coefficients` are in the order of the inputs."""

    num_images: int
    key: str
    coefficients: tuple[float, ...]
    dtype: StoredDtype
    profile: Profile
    lineage: dict[str, Any]
    tensors: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """Other coefficients for tensors whose name matches a pattern; the first pattern that matches counts."""


def output_specs(store: RangedReader, latest: StoredSnapshot, outputs: Sequence[WantedOutput]) -> list[OutputSpec]:
    """What `reconstruct` needs to know about each output. Reads the header of `latest`, the last input.

    Raises ObjectMissing, CorruptObject and the store's other errors.
    """
    from phema.shared.snapshots.combining.combiner import OutputSpec

    header = read_header(store, latest.key, size=latest.size)
    source = header.metadata
    if source is None:
        raise CorruptObject(f"object {latest.key} is a safetensors file without phema's metadata")
    names = [e.name for e in header.tensors if is_average(e.name, e.dtype, source.buffers)]
    return [
        OutputSpec(o.key, o.coefficients, _metadata(source, o), o.dtype, _coefficients_by_tensor(o, names))
        for o in outputs
    ]


def _coefficients_by_tensor(output: WantedOutput, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """By tensor name: the coefficients of tensors that match a pattern of the output."""
    found = {}
    for name in names:
        own = (coefficients for pattern, coefficients in output.tensors if fnmatchcase(name, pattern))
        if (chosen := next(own, None)) is not None:
            found[name] = chosen
    return found


def _metadata(source: SnapshotMetadata, output: WantedOutput) -> SnapshotMetadata:
    """Metadata of an output file: that of the run, taken from a snapshot, and the output's own lineage."""
    fields = source.model_dump() | {
        "kind": "basis" if output.profile.kind == "basis" else "reconstruction",
        "num_images": output.num_images,
        "profile": output.profile,
        "dtype": output.dtype,
        "code_version": version("phema"),
        "lineage": output.lineage,
    }
    return SnapshotMetadata.model_validate(fields)
