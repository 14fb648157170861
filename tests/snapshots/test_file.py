"""The snapshot file: exact, deterministic, readable by safetensors, and never believed when damaged."""

from __future__ import annotations

import json
import math
import random
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from phema.shared.catalog.content_keys import canonical, profile_identity
from phema.shared.snapshots import CorruptObject, ObjectStore
from phema.shared.snapshots.files.header import (
    ITEM_BYTES,
    Header,
    Profile,
    SnapshotMetadata,
    StoredDtype,
    arrange,
    build_header,
    parse_header,
)
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES, encode, load_tensors, read_header, read_path
from phema.shared.snapshots.profile import TensorProfile
from tests.snapshots.weights import BUFFERS, metadata, tensors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_cast_and_the_rest_is_exact(dtype: StoredDtype) -> None:
    original = tensors(3)
    found = load_tensors(encode(original, metadata(dtype=dtype)))
    assert found.keys() == original.keys()
    for name, tensor in original.items():
        exact = name in BUFFERS or not tensor.is_floating_point()
        assert torch.equal(found[name], tensor if exact else tensor.to(getattr(torch, dtype)))


def test_safetensors_reads_the_same(tmp_path: Path) -> None:
    data = encode(tensors(3), metadata())
    (tmp_path / "a.safetensors").write_bytes(data)
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in load_tensors(data).items())
    assert all(torch.equal(found[name], tensor) for name, tensor in load_tensors(tmp_path / "a.safetensors").items())
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert SnapshotMetadata.model_validate_json(file.metadata()["phema"]) == metadata()


def test_equal_contents_make_equal_bytes() -> None:
    shuffled = list(tensors(3).items())
    random.Random(0).shuffle(shuffled)
    strided = {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in shuffled}
    assert encode(strided, metadata()) == encode(tensors(3), metadata())
    assert encode(tensors(4), metadata()) != encode(tensors(3), metadata())


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 5), max_size=3), st.booleans()),
        max_size=9,
    )
)
def test_every_tensor_is_aligned_and_the_file_has_no_gaps(drawn: list[tuple[str, list[int], bool]]) -> None:
    named = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape, _) in enumerate(drawn)]
    entries = arrange(named, [f"t{i}" for i, (_, _, is_buffer) in enumerate(drawn) if is_buffer])
    header = build_header(None, entries)
    assert len(header) % 8 == 0
    size = len(header) + (entries[-1].end if entries else 0)
    assert parse_header(header, size, "x") == Header(None, entries, len(header))
    narrow = {"I16", "I8", "U8", "BOOL"}
    for entry in entries:
        if entry.dtype not in narrow:
            assert entry.start % min(4, ITEM_BYTES[entry.dtype]) == 0


POWERS = st.floats(0.001, 0.288).map(Profile.power) | st.floats(1e-3, 1e3).map(lambda gamma: Profile(gamma=gamma))


@given(POWERS, st.integers(1, 2**40))
def test_floats_and_counts_survive_exactly(profile: Profile, num_images: int) -> None:
    described = metadata(num_images).model_copy(update={"profile": profile})
    data = encode({}, described.model_copy(update={"buffers": ()}))
    found = parse_header(data, len(data), "x").metadata
    assert found is not None
    assert (found.profile, found.num_images) == (profile, num_images)


def test_equal_profiles_have_one_sigma_rel_whatever_machine_computed_gamma() -> None:
    here = Profile.power(0.05)
    there = Profile(sigma_rel=0.05, gamma=math.nextafter(here.gamma or 0, math.inf))
    assert here.gamma != there.gamma
    assert (here, hash(here), here.key) == (there, hash(there), there.key)
    assert here.key == '{"kind":"power","sigma_rel":0.05}'
    nested = [
        Profile(kind="per_tensor", default=part, tensors=(TensorProfile(pattern="*", profile=part),))
        for part in (here, there)
    ]
    assert nested[0] == nested[1]
    assert nested[0].key == nested[1].key == canonical(profile_identity(nested[1].model_dump(mode="json")))
    assert here != Profile.power(math.nextafter(0.05, 1))
    assert here not in (Profile(kind="raw"), nested[0], 0.05)


def test_read_header_reads_only_the_header(store: ObjectStore) -> None:
    data = encode(tensors(3), metadata(config={"long": "x" * 100_000}))
    store.put("a", data)
    header = read_header(store, "a", size=len(data))
    assert header.metadata == metadata(config={"long": "x" * 100_000})
    assert header.size == len(data)
    assert {entry.name for entry in header.tensors} == set(tensors(3))


CUTS = [0, 4, 7, 8, 20, 500, -5000, -8, -1]


@pytest.mark.parametrize("cut", CUTS)
def test_a_truncated_file_is_named_with_its_sizes(store: ObjectStore, tmp_path: Path, cut: int) -> None:
    data = encode(tensors(3), metadata())
    part = data[:cut]
    store.put("runs/r/cut", part)
    sentence = rf"runs/r/cut .*{len(part)} bytes"
    with pytest.raises(CorruptObject, match=rf"^object runs/r/cut in \S+ holds {len(part)} bytes, {len(data)} were"):
        read_header(store, "runs/r/cut", size=len(data))
    with pytest.raises(CorruptObject, match=sentence):
        read_header(store, "runs/r/cut")
    (tmp_path / "cut").write_bytes(part)
    with pytest.raises(CorruptObject, match=f"cut .*{len(part)} bytes"):
        load_tensors(tmp_path / "cut")
    with pytest.raises(CorruptObject, match=f"in memory .*{len(part)} bytes"):
        load_tensors(part)


def test_a_file_that_is_too_long_is_refused() -> None:
    data = encode(tensors(3), metadata())
    with pytest.raises(CorruptObject, match=f"holds {len(data) + 1} bytes, its header promises {len(data)}"):
        load_tensors(data + b"x")


def raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        bytes(100),
        b"PK\x03\x04" + bytes(100),
        (2**63).to_bytes(8, "little") + b"{}",
        raw([]),
        raw("x"),
        raw({"t": []}),
        raw({"t": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        raw({"t": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        raw({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        raw({"t": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, bytes(4)),
        raw({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        raw({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        raw({"__metadata__": {"phema": "{}"}}),
        raw({"__metadata__": {"phema": "not json"}}),
        raw({"__metadata__": 5}),
    ],
)
def test_a_file_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObject, match=r"^object in memory ") as error:
        load_tensors(data)
    assert "\n" not in str(error.value)


FITS = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
HUGE = int("9" * 4_000)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"t": {**FITS, "shape": [HUGE] * 2_000}}, "tensor 't' has shape"),
        ({"t": {**FITS, "shape": [2**63]}}, "tensor 't' has shape"),
        ({"t": {**FITS, "data_offsets": [0, HUGE]}}, "tensor 't' has shape"),
        ({"t": {**FITS, "shape": [False]}}, "tensor 't' has shape"),
        ({"t": {**FITS, "data_offsets": [False, False]}}, "tensor 't' has shape"),
        ({"t": {**FITS, "shape": {}}}, "tensor 't' has shape"),
        ({"t": {**FITS, "shape": [1] * 64 + [0]}}, "tensor t has 65 dimensions; at most 64 are allowed"),
        ({f"t{i}": FITS for i in range(50_001)}, "50,001 tensors; a snapshot file holds at most 50,000"),
        ({"n" * 1_001: FITS}, "has a name of 1,001 characters; at most 1,000 fit"),
        ({"\ud800": FITS}, "half a surrogate pair"),
        ({"\ud800": {**FITS, "dtype": "\ud800"}}, "has dtype"),
    ],
)
def test_a_header_is_bounded_before_it_is_used(header: object, words: str) -> None:
    with pytest.raises(CorruptObject) as error:
        load_tensors(raw(header))
    assert words in str(error.value)
    assert len(str(error.value).encode()) < 1_000


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"t":' * 100_000, b'{"__metadata__":{"phema":"' + b'{\\"config\\":' * 10_000 + b'"}}'],
)
def test_a_header_that_is_nested_deeply_is_refused(text: bytes) -> None:
    with pytest.raises(CorruptObject, match="its header cannot be read"):
        load_tensors(len(text).to_bytes(8, "little") + text)


def test_an_announced_length_allocates_nothing(tmp_path: Path) -> None:
    for length in (2**24 + 1, 2**40, 2**64 - 1):
        (tmp_path / "file").write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(CorruptObject, match="was cut off"):
            read_path(tmp_path / "file")
    with (tmp_path / "file").open("wb") as file:  # sparse
        file.write((2**24 + 8).to_bytes(8, "little"))
        file.truncate(2**25)
    with pytest.raises(CorruptObject, match=r"header of 16,777,224 bytes; at most 16,777,216 are allowed"):
        read_path(tmp_path / "file")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"__metadata__": torch.ones(1)}, "named __metadata__, which safetensors reserves"),
        ({"w": torch.ones([1] * 65)}, "tensor w has 65 dimensions; at most 64 are allowed"),
        ({"\udfff": torch.ones(1)}, "half a surrogate pair"),
    ],
)
def test_what_no_file_can_hold_is_not_encoded(tensor: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode(tensor, metadata(buffers=()))


@given(st.binary(max_size=64), st.integers(0, 700))
def test_no_damage_raises_anything_else(noise: bytes, place: int) -> None:
    data = bytearray(encode({"w": torch.ones(3)}, metadata(buffers=())))
    data[place : place + len(noise)] = noise
    with suppress(CorruptObject):
        parse_header(bytes(data), len(data), "x")


def test_a_foreign_file_has_no_metadata(tmp_path: Path) -> None:
    weights = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int64)}
    safetensors.torch.save_file(weights, tmp_path / "foreign", {"format": "pt"})
    header = read_path(tmp_path / "foreign")
    assert header.metadata is None
    assert {entry.name: entry.shape for entry in header.tensors} == {"a": (3,), "b": (2,)}


def test_mistakes_when_encoding() -> None:
    with pytest.raises(ValueError, match=r"buffers names 'emb\.freqs', which is not among the 1 tensors"):
        encode({"w": torch.ones(3)}, metadata())
    with pytest.raises(ValueError, match=r"tensor w holds values beyond float16's 65504; store this run as float32"):
        encode({"w": torch.tensor([7e4, math.inf])}, metadata(buffers=()))
    with pytest.raises(ValueError, match=r"tensor w holds values beyond float32's 3\.40282e\+38$"):
        encode({"w": torch.tensor([1e300], dtype=torch.float64)}, metadata(buffers=(), dtype="float32"))
    with pytest.raises(ValueError, match=r"tensor w has dtype torch.complex64"):
        encode({"w": torch.ones(3, dtype=torch.complex64)}, metadata(buffers=()))
    kept = load_tensors(encode({"w": torch.tensor([math.inf, math.nan])}, metadata(buffers=())))
    assert kept["w"].isinf().any()  # a diverged run is stored as it is


def test_lineage_belongs_to_reconstructions() -> None:
    with pytest.raises(ValidationError, match="lineage belongs to a reconstruction or a basis"):
        metadata(kind="reconstruction")
    with pytest.raises(ValidationError, match="lineage belongs to a reconstruction or a basis"):
        metadata(lineage={"a": 1})


def test_every_dtype_has_its_size() -> None:
    assert {code: dtype.itemsize for code, dtype in TORCH_DTYPES.items()} == ITEM_BYTES
