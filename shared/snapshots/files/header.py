"""The header of a snapshot file: safetensors' JSON, which also contains phema's metadata. Torch-free.

A file consists of 8 bytes of header length (little-endian), the header, and the bytes of the tensors without gaps.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import RangedReader
from phema.shared.validation_sentences import sentence

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element, by safetensors' name of the dtype."""
DTYPE_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Dtypes in which averaged tensors may be stored."""
StoredDtype = Literal["float32", "float16", "bfloat16"]
MAX_HEADER_BYTES = 2**24
"""A hundred times what the largest network with 2,000 snapshots in its lineage needs."""
MAX_TENSORS = 50_000
"""The largest network of phema has about 1,000."""
MAX_DIMENSIONS = 64
MAX_NAME_CHARACTERS = 1_000
_MAX_OFFSET = 2**63 - 1
_FIRST_READ = 2**16
_METADATA_NAME = "__metadata__"
_METADATA_KEY = "phema"
_PROBE_KEY = "phema_probe"


class SnapshotMetadata(BaseModel):
    """Metadata in a snapshot file. It has no dates and no host names, so that equal contents give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    kind: Literal["snapshot", "reconstruction", "basis"] = "snapshot"
    run_id: str
    num_images: int = Field(ge=1)
    profile: Profile
    dtype: StoredDtype
    """Dtype of the averaged tensors. Buffers keep their own dtype."""
    buffers: tuple[str, ...] = ()
    """Names of tensors that are not averaged (Fourier frequencies). They are stored exactly and copied."""
    code_version: str
    config_hash: str
    config: dict[str, Any]
    """The run's complete configuration (RunConfig as JSON)."""
    lineage: dict[str, Any] | None = None
    """For a reconstruction or basis: the snapshots it was made from, their coefficients and the predicted errors."""

    @model_validator(mode="after")
    def _check_lineage_and_profile(self) -> Self:
        if (self.kind == "snapshot") != (self.lineage is None):
            raise ValueError(
                f"lineage belongs to a reconstruction or a basis, and to no snapshot; kind is {self.kind!r}"
            )
        if (self.kind == "basis") != (self.profile.kind == "basis"):
            raise ValueError(f"a {self.kind} cannot have a profile of kind {self.profile.kind!r}")
        return self

    def canonical_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file. `start` and `end` are offsets in bytes from the first tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """Metadata (None for a safetensors file that phema did not write), tensors and sizes of a snapshot file."""

    metadata: SnapshotMetadata | None
    tensors: tuple[TensorEntry, ...]
    """In the order of their bytes, without gaps."""
    data_start: int
    """Offset of the first tensor's bytes in the file."""
    probe: bytes = b""
    """A sample of the weights (`weight_probe`), if the file carries one."""

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        return self.data_start + (self.tensors[-1].end if self.tensors else 0)


def arrange(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], buffers: Iterable[str] = ()
) -> tuple[TensorEntry, ...]:
    """Offsets for tensors, each given as (name, dtype, shape).

    The order is: buffers with items of 4 bytes or more, averages, other buffers; within each group by item size, dtype
    and name. So every tensor is aligned, equal tensors give equal files, and the order does not depend on the dtype of
    the averages.
    """
    copied = set(buffers)

    def place(tensor: tuple[str, str, tuple[int, ...]]) -> tuple[int, int, str, str]:
        name, dtype, _ = tensor
        rank = 1 if is_average(name, dtype, copied) else 0 if ITEM_BYTES[dtype] >= 4 else 2
        return rank, -ITEM_BYTES[dtype], dtype, name

    entries, start = [], 0
    for name, dtype, shape in sorted(tensors, key=place):
        end = start + math.prod(shape) * ITEM_BYTES[dtype]
        entries.append(TensorEntry(name, dtype, shape, start, end))
        start = end
    return tuple(entries)


def unstorable(tensors: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a snapshot file cannot hold tensors of these names and shapes; None if it can."""
    if len(tensors) > MAX_TENSORS:
        return f"there are {len(tensors):,} tensors; a snapshot file holds at most {MAX_TENSORS:,}"
    for name, shape in tensors.items():
        if name == _METADATA_NAME:
            return f"a tensor is named {_METADATA_NAME}, which safetensors reserves for the metadata; rename it"
        if len(name) > MAX_NAME_CHARACTERS:
            return f"tensor {name[:50]}… has a name of {len(name):,} characters; at most {MAX_NAME_CHARACTERS:,} fit"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"tensor {name!r} has a name with half a surrogate pair, which is no text; rename it"
        if len(shape) > MAX_DIMENSIONS:
            return f"tensor {name} has {len(shape):,} dimensions; at most {MAX_DIMENSIONS} are allowed"
    return None


def is_average(name: str, dtype: str, buffers: Collection[str]) -> bool:
    """Whether a tensor holds averaged weights. A reconstruction combines these and copies all other tensors."""
    return dtype in DTYPE_CODES.values() and name not in buffers


def build_header(metadata: SnapshotMetadata | None, tensors: Iterable[TensorEntry], probe: bytes = b"") -> bytes:
    """The bytes before the first tensor, padded so that the data begins at a multiple of 8.

    `probe`: a sample of the weights (`weight_probe`), so that plans can be made from headers alone.
    """
    header: dict[str, Any] = {_METADATA_NAME: {_METADATA_KEY: metadata.canonical_json()}} if metadata else {}
    if metadata and probe:
        header[_METADATA_NAME][_PROBE_KEY] = base64.b64encode(probe).decode()
    for entry in tensors:
        offsets = [entry.start, entry.end]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_header(prefix: bytes | memoryview, size: int, name: str) -> Header:
    """The header in the first bytes of a file of `size` bytes. `name` is what error messages call the file.

    Raises CorruptObject unless header and tensors fill the file exactly.
    """
    length = header_length(prefix, size, name)
    try:
        document = json.loads(bytes(prefix[8 : 8 + length]))
        raw = document.pop(_METADATA_NAME, {})
        metadata = SnapshotMetadata.model_validate_json(raw[_METADATA_KEY]) if _METADATA_KEY in raw else None
        probe = base64.b64decode(raw.get(_PROBE_KEY, ""), validate=True)
        if len(document) > MAX_TENSORS:
            raise ValueError(unstorable(document))
        tensors = tuple(sorted((_entry(*item) for item in document.items()), key=lambda e: (e.start, e.end)))
        if (reason := unstorable({entry.name: entry.shape for entry in tensors})) is not None:
            raise ValueError(reason)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        detail = sentence(error.errors()[0]) if isinstance(error, ValidationError) else error
        raise CorruptObject(f"object {name} is not a snapshot file: its header cannot be read ({detail})") from error
    end = 0
    for entry in tensors:
        expected = math.prod(entry.shape) * ITEM_BYTES[entry.dtype]
        if entry.start != end or entry.end - entry.start != expected:
            raise CorruptObject(
                f"object {name} is not a snapshot file: tensor {entry.name} lies at bytes {entry.start} to "
                f"{entry.end}; {end} to {end + expected} were expected"
            )
        end = entry.end
    header = Header(metadata, tensors, 8 + length, probe)
    if header.size != size:
        raise CorruptObject(f"object {name} holds {size} bytes, its header promises {header.size}")
    return header


def header_length(prefix: bytes | memoryview, size: int, name: str) -> int:
    """Length of the JSON after the first 8 bytes. Raises CorruptObject if the file is too short for it."""
    length = int.from_bytes(prefix[:8], "little") if len(prefix) >= 8 else -1
    if MAX_HEADER_BYTES < length <= size - 8:
        raise CorruptObject(
            f"object {name} announces a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed"
        )
    if not 2 <= length <= size - 8:
        raise CorruptObject(
            f"object {name} is not a snapshot file or was cut off: it holds {size} bytes, "
            f"{8 + length if length >= 0 else 'at least 8'} were expected for its header"
        )
    return length


def read_header(store: RangedReader, key: str, *, size: int | None = None) -> Header:
    """Header of a stored snapshot, without its tensors. `size`: the object's size in the catalog, in bytes.

    Raises ObjectMissing, or CorruptObject with the object's name and both sizes.
    """
    return read_header_bytes(store, key, size=size)[0]


def read_header_bytes(store: RangedReader, key: str, *, size: int | None = None) -> tuple[Header, bytes]:
    """The result of `read_header`, and the first bytes of the object: the header, and what was read with it."""
    info, prefix = store.peek(key, _FIRST_READ)
    if size is not None and info.size != size:
        raise CorruptObject(f"object {key} in {store.url} holds {info.size} bytes, {size} were written")
    needed = 8 + header_length(prefix, info.size, key)
    if needed > len(prefix):
        prefix += store.read_range(key, len(prefix), needed - len(prefix))
    return parse_header(prefix, info.size, key), prefix


def _entry(name: str, fields: Mapping[str, Any]) -> TensorEntry:
    if fields["dtype"] not in ITEM_BYTES:
        raise ValueError(f"tensor {name!r:.99} has dtype {fields['dtype']!r:.99}, allowed: {', '.join(ITEM_BYTES)}")
    shape, (start, end) = fields["shape"], fields["data_offsets"]
    # JSON's true is an int in Python; huge numbers would take minutes to multiply.
    if type(shape) is not list or not all(type(n) is int and 0 <= n <= _MAX_OFFSET for n in (*shape, start, end)):
        raise ValueError(f"tensor {name!r:.99} has shape {shape!s:.99} at {start!s:.99} to {end!s:.99}")
    return TensorEntry(name, fields["dtype"], tuple(shape), start, end)
