"""Coefficients per tensor, and snapshots of different dtypes, in one pass: compared with sums in float64."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from phema.shared.snapshots import CorruptObject, ObjectStore
from phema.shared.snapshots.combining.block_reader import GROUP, TILE
from phema.shared.snapshots.combining.reconstruct import OutputSpec, reconstruct
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.files.snapshot_file import encode, load_tensors
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from tests.snapshots.weights import BUFFERS, expected, metadata, output, store_run, tensors

MIB = 2**20
ROOMY, TIGHT = 64 * MIB, 14 * MIB
"""TIGHT leaves room for a few tiles at a time, or for one output's part of an upload."""
GAINS = 40


def coefficients(count: int, seed: int) -> list[float]:
    dice = random.Random(seed)
    return [dice.uniform(-1, 1) for _ in range(count)]


def weights(seed: int) -> dict[str, torch.Tensor]:
    """As of every test, and many tensors so small that several share a tile, one of them across its border."""
    generator = torch.Generator().manual_seed(100 + seed)
    gains = {f"block{i:02d}.gain": torch.randn((), generator=generator) for i in range(GAINS)}
    long = {f"block{i:02d}.long": torch.randn(TILE // 3 + i, generator=generator) for i in range(5)}
    return tensors(seed, 2 * TILE) | gains | long


def stored_as(store: ObjectStore, dtypes: Sequence[StoredDtype]) -> list[StoredSnapshot]:
    """A run whose snapshots are stored in these dtypes."""
    stored = []
    for index, dtype in enumerate(dtypes):
        key, num_images = f"snapshots/{index}", 100 * (index + 1)
        info = store.put(key, encode(weights(index), metadata(num_images, 0.1, dtype)))
        profile = Profile.power(0.1)
        stored.append(StoredSnapshot(str(index), num_images, profile, key, info.size, info.sha256 or "", dtype))
    return stored


def with_tensors(spec: OutputSpec, names: Mapping[str, int]) -> OutputSpec:
    """The same output, with coefficients for each named tensor drawn from its seed."""
    return replace(spec, tensors={name: coefficients(len(spec.coefficients), seed) for name, seed in names.items()})


def assert_right(store: ObjectStore, stored: list[StoredSnapshot], spec: OutputSpec) -> None:
    found = load_tensors(store.get(spec.key))
    wanted = {
        row: expected(store, stored, row) for row in {tuple(spec.coefficients), *map(tuple, spec.tensors.values())}
    }
    for name, tensor in found.items():
        right = wanted[spec.coefficients_of(name)][name]
        if name in BUFFERS or not tensor.is_floating_point():
            assert torch.equal(tensor, right), name
            continue
        tolerance = {torch.float32: 2e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}[tensor.dtype]
        torch.testing.assert_close(tensor.double(), right, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize("count", [3, GROUP + 2])
def test_each_tensor_has_its_own_coefficients(store: ObjectStore, count: int) -> None:
    stored = stored_as(store, ["float16"] * count)
    plain = [output(f"out/{k}", coefficients(count, k), dtype) for k, dtype in enumerate(["float32", "float16"])]
    gains = {f"block{i:02d}.gain": 10 + i % 3 for i in range(0, GAINS, 2)}
    specs = [
        plain[0],
        with_tensors(plain[1], {"enc.conv": 20, "block01.long": 21, "dec.gain": 22}),
        with_tensors(output("out/2", coefficients(count, 2), "bfloat16"), gains | {"block03.long": 20}),
    ]
    reconstruct(store, stored, specs, memory_bytes=ROOMY)
    for spec in specs:
        assert_right(store, stored, spec)
    apart = [replace(spec, key=f"{spec.key}-apart") for spec in specs]
    for spec in apart:
        reconstruct(store, stored, [spec], memory_bytes=TIGHT)
    assert [store.get(spec.key) for spec in apart] == [store.get(spec.key) for spec in specs], "bit for bit"


def test_equal_coefficients_for_a_tensor_change_nothing(store: ObjectStore) -> None:
    stored = stored_as(store, ["float16"] * 4)
    plain = output("out/plain", coefficients(4, 0))
    same = replace(plain, key="out/same", tensors={"enc.conv": plain.coefficients})
    reconstruct(store, stored, [plain, same], memory_bytes=ROOMY)
    assert store.get(plain.key) == store.get(same.key)


@pytest.mark.parametrize("latest", ["float32", "float16", "bfloat16"])
def test_snapshots_of_different_dtypes_are_combined(store: ObjectStore, latest: StoredDtype) -> None:
    dtypes: list[StoredDtype] = ["float32", "float16", "float16", "bfloat16", "float32", latest]
    stored = stored_as(store, dtypes)
    specs = [
        output("out/0", coefficients(6, 0)),
        with_tensors(output("out/1", coefficients(6, 1), "float16"), {"block02.long": 2}),
    ]
    seen: list[tuple[int, int]] = []
    reconstruct(store, stored, specs, memory_bytes=ROOMY, progress=lambda *at: seen.append(at))
    for spec in specs:
        assert_right(store, stored, spec)
    averaged = sum(t.numel() for name, t in weights(0).items() if name not in (*BUFFERS, "emb.count"))
    assert seen[-1] == (averaged * sum(4 if d == "float32" else 2 for d in dtypes),) * 2
    again = [replace(spec, key=f"{spec.key}-tight") for spec in specs]
    reconstruct(store, stored, again, memory_bytes=TIGHT)
    assert [store.get(spec.key) for spec in again] == [store.get(spec.key) for spec in specs]


def test_an_average_in_one_snapshot_is_one_in_all(store: ObjectStore) -> None:
    stored = stored_as(store, ["float16"] * 2)
    odd = {**weights(1), "dec.conv": torch.zeros(7, 5, 3, 3, dtype=torch.int64)}
    info = store.put("odd", encode(odd, metadata(200, 0.1)))
    stored[1] = replace(stored[1], key="odd", size=info.size)
    with pytest.raises(CorruptObject, match="object odd holds other tensors than snapshots/0"):
        reconstruct(store, stored, [output("out", [0.5, 0.5])], memory_bytes=ROOMY)


@pytest.mark.parametrize("name", ["no.such", "emb.freqs", "emb.count"])
def test_only_averaged_tensors_have_coefficients(store: ObjectStore, name: str) -> None:
    stored = store_run(store, 2)
    spec = with_tensors(output("out", [0.5, 0.5]), {name: 1})
    with pytest.raises(ValueError, match=f"out has coefficients for '{name}', which is not an averaged tensor"):
        reconstruct(store, stored, [spec], memory_bytes=ROOMY)
    short = replace(spec, tensors={"enc.conv": [1.0]})
    with pytest.raises(ValueError, match=r"out has for tensor enc\.conv 1 coefficients for 2 snapshots"):
        reconstruct(store, stored, [short], memory_bytes=ROOMY)
    assert store.head("out") is None
