"""Reconstruction against whole-file sums in float64; bounds, cancelling, damage."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from phema.shared.snapshots import CorruptObject, ObjectExists, ObjectMissing, ObjectStore
from phema.shared.snapshots.combining.block_reader import GROUP, TILE
from phema.shared.snapshots.combining.reconstruct import OutputSpec, ReconstructionCancelled, reconstruct
from phema.shared.snapshots.files.header import DTYPE_CODES, StoredDtype, build_header
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES, encode, load_tensors, read_header
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.snapshots.test_store import leftovers, spoil
from tests.snapshots.weights import BUFFERS, expected, metadata, output, store_run, tensors

MIB = 2**20
ROOMY = 128 * MIB
DTYPES: list[StoredDtype] = ["float32", "float16", "bfloat16"]
ROUNDING = {"float32": 2**-23, "float16": 2**-11, "bfloat16": 2**-8}


def coefficients(count: int, seed: int) -> list[float]:
    dice = random.Random(seed)
    return [dice.uniform(-1, 1) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output_dtype", DTYPES)
def test_sums_are_right_in_every_dtype(store: ObjectStore, dtype: StoredDtype, output_dtype: StoredDtype) -> None:
    stored = store_run(store, 6, dtype)
    outputs = [output(f"out/{k}", coefficients(6, k), output_dtype) for k in range(3)]
    infos = reconstruct(store, stored, outputs, memory_bytes=ROOMY)
    for spec, info in zip(outputs, infos, strict=True):
        assert info == store.head(info.key) or store.head(info.key) is not None
        found = load_tensors(store.get(spec.key))
        wanted = expected(store, stored, spec.coefficients)
        assert found.keys() == wanted.keys()
        for name, tensor in found.items():
            if name in BUFFERS or not tensor.is_floating_point():
                assert torch.equal(tensor, wanted[name])
                continue
            assert tensor.dtype == TORCH_DTYPES[DTYPE_CODES[output_dtype]]
            tolerance = 2 * ROUNDING[output_dtype]
            torch.testing.assert_close(tensor.double(), wanted[name], rtol=tolerance, atol=tolerance)
        assert read_header(store, spec.key, size=info.size).metadata == spec.metadata
    assert leftovers(store) == []


@pytest.mark.parametrize("count", [1, GROUP, GROUP + 1, 2 * GROUP + 5])
@pytest.mark.parametrize("size", [1, TILE // 3, TILE + 7])
def test_any_number_of_snapshots_and_any_size(store: ObjectStore, count: int, size: int) -> None:
    stored = store_run(store, count, size=size)
    spec = output("out", coefficients(count, 0))
    reconstruct(store, stored, [spec], memory_bytes=ROOMY)
    wanted = expected(store, stored, spec.coefficients)
    for name, tensor in load_tensors(store.get("out")).items():
        torch.testing.assert_close(tensor.double(), wanted[name].double(), rtol=1e-5, atol=1e-5 * math.sqrt(count))


def test_no_setting_changes_a_bit(store: ObjectStore) -> None:
    """Neither the memory bound nor the number of outputs in a pass nor the number of PyTorch's threads."""
    count = GROUP + 3
    stored = store_run(store, count, size=9 * TILE + 5)
    specs = [coefficients(count, k) for k in range(3)]

    def run(name: str, memory_bytes: int, together: bool = True) -> list[bytes]:
        outputs = [output(f"{name}/{k}", c) for k, c in enumerate(specs)]
        for batch in [outputs] if together else [[o] for o in outputs]:
            reconstruct(store, stored, batch, memory_bytes=memory_bytes)
        return [store.get(spec.key) for spec in outputs]

    first = run("roomy", ROOMY)
    tight = least_memory(store, stored, 1)
    assert run("tight", tight) == first  # on S3 one output per pass, locally all with blocks of one tile
    assert run("apart", ROOMY, together=False) == first
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert run("threads", ROOMY) == first
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def least_memory(store: ObjectStore, stored: list[StoredSnapshot], outputs: int) -> int:
    """The smallest bound, as the error about a smaller one names it."""
    with pytest.raises(ValueError, match=r"memory_bytes 1 is too little for \d+ snapshots; at least") as error:
        reconstruct(store, stored, [output("x", [0.0] * len(stored))], memory_bytes=1)
    return int(str(error.value).split("at least ")[1].split(" ")[0])


def test_a_stored_profile_reproduces_itself(store: ObjectStore) -> None:
    stored = store_run(store, 8)
    planned = plan(stored, [Profile.power(0.1), Profile.power(0.13)])
    outputs = [output(f"out/{o.profile.sigma_rel}", o.coefficients, "float16") for o in planned.outputs]
    reconstruct(store, planned.snapshots, outputs, memory_bytes=ROOMY)
    found, kept = load_tensors(store.get("out/0.1")), load_tensors(store.get(stored[-1].key))
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_progress_counts_the_bytes_read(store: ObjectStore) -> None:
    stored = store_run(store, 5, size=3 * TILE)
    seen: list[tuple[int, int]] = []
    tight = least_memory(store, stored, 1)
    reconstruct(
        store,
        stored,
        [output("out", [0.2] * 5)],
        memory_bytes=tight,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 3
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    averaged = 2 * (3 * 3 * TILE + 7 * 5 * 9 + 1)
    assert seen[-1] == (5 * averaged, 5 * averaged)
    assert {total for _, total in seen} == {5 * averaged}


def test_cancelling_keeps_nothing(store: ObjectStore) -> None:
    stored = store_run(store, 5, size=3 * TILE)
    answers = itertools.chain([False, False], itertools.repeat(True))
    tight = least_memory(store, stored, 1)
    with pytest.raises(ReconstructionCancelled):
        reconstruct(store, stored, [output("out", [0.2] * 5)], memory_bytes=tight, cancelled=lambda: next(answers))
    assert [info.key for info in store.list()] == [s.key for s in stored]
    assert leftovers(store) == []


def cut_off(store: ObjectStore, snapshot: StoredSnapshot) -> None:
    spoil(store, snapshot.key, store.get(snapshot.key)[:-100])


def other_network(store: ObjectStore, snapshot: StoredSnapshot) -> None:
    changed = tensors(0) | {"enc.conv": torch.zeros(999, 3)}
    spoil(store, snapshot.key, encode(changed, metadata(snapshot.num_images, snapshot.profile.sigma_rel or 0.0)))


def other_time(store: ObjectStore, snapshot: StoredSnapshot) -> None:
    spoil(store, snapshot.key, encode(tensors(0), metadata(999, snapshot.profile.sigma_rel or 0.0)))


def no_snapshot(store: ObjectStore, snapshot: StoredSnapshot) -> None:
    spoil(store, snapshot.key, bytes(snapshot.size))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_off, r"object {key} in \S+ holds {less} bytes, {size} were written"),
        (no_snapshot, "object {key} is not a snapshot file or was cut off: it holds {size} bytes, 8 were expected"),
        (other_time, r"object {key} is the snapshot of .*0\.05}} at 999 images, not of .* at 300"),
    ],
)
def test_a_damaged_snapshot_is_named(
    store: ObjectStore, damage: Callable[[ObjectStore, StoredSnapshot], None], sentence: str
) -> None:
    stored = store_run(store, 6)
    victim = stored[4]
    damage(store, victim)
    wanted = sentence.format(key=victim.key, size=victim.size, less=victim.size - 100)
    with pytest.raises(CorruptObject, match=f"^{wanted}"):
        reconstruct(store, stored, [output("out", [0.1] * 6)], memory_bytes=ROOMY)
    assert [info.key for info in store.list()] == [s.key for s in stored]


def test_a_snapshot_of_another_network_is_named(store: ObjectStore) -> None:
    stored = store_run(store, 6)
    other_network(store, stored[4])
    size = store.get(stored[4].key)
    stored[4] = StoredSnapshot(**(vars(stored[4]) | {"size": len(size)}))
    with pytest.raises(CorruptObject, match=f"object {stored[4].key} holds other tensors than {stored[0].key}"):
        reconstruct(store, stored, [output("out", [0.1] * 6)], memory_bytes=ROOMY)


def test_a_changed_byte_anywhere_in_an_input_is_noticed(store: ObjectStore) -> None:
    """In the header, in a buffer that is copied, in weights at either end, and in buffers that are not read."""
    stored = store_run(store, GROUP + 2, size=3 * TILE + 5)
    before = [info.key for info in store.list()]
    spec = output("out", coefficients(len(stored), 0))
    for number, place in [(0, 300), (1, -10), (3, -20_000), (GROUP + 1, -1), (GROUP + 1, 9_000), (5, 40_000)]:
        victim = stored[number]
        whole = store.get(victim.key)
        changed = bytearray(whole)
        changed[place] ^= 1
        spoil(store, victim.key, bytes(changed))
        for resume in (False, True):
            with pytest.raises(CorruptObject, match=f"^object {victim.key} "):
                reconstruct(store, stored, [spec], memory_bytes=ROOMY, resume=resume)
            assert [info.key for info in store.list()] == before
            assert unfinished(store) == []
        spoil(store, victim.key, whole)
    reconstruct(store, stored, [spec], memory_bytes=ROOMY, resume=True)


def test_every_input_is_verified_in_every_pass(store: ObjectStore) -> None:
    """On S3 the least memory makes one pass for each output. A byte changes between two passes."""
    stored = store_run(store, 6, size=3 * TILE)
    outputs = [output(f"out/{k}", coefficients(6, k)) for k in range(3)]
    changed = bytearray(store.get(stored[2].key))
    changed[-50] ^= 1

    def spoil_at_half(done: int, total: int) -> None:
        if 2 * done > total:
            spoil(store, stored[2].key, bytes(changed))

    tight = least_memory(store, stored, 1)
    with pytest.raises(CorruptObject, match=stored[2].key):
        reconstruct(store, stored, outputs, memory_bytes=tight, progress=spoil_at_half)
    assert [info.key for info in store.list()] == [s.key for s in stored]


def test_a_file_whose_tensors_lie_in_another_order_is_verified(store: ObjectStore) -> None:
    """Files of other programs: the pass jumps back and forth in them."""
    stored = [foreign_order(store, snapshot) for snapshot in store_run(store, 3, "float32")]
    spec = output("out", [0.5, 0.25, 0.25])
    reconstruct(store, stored, [spec], memory_bytes=ROOMY)
    wanted = expected(store, stored, spec.coefficients)
    for name, tensor in load_tensors(store.get("out")).items():
        torch.testing.assert_close(tensor.double(), wanted[name].double(), rtol=1e-5, atol=1e-5)
    store.delete("out")
    for number in range(3):
        whole = store.get(stored[number].key)
        for place in (-1, -3_000, 3_000):
            changed = bytearray(whole)
            changed[place] ^= 1
            spoil(store, stored[number].key, bytes(changed))
            with pytest.raises(CorruptObject, match=f"object {stored[number].key} .*is damaged"):
                reconstruct(store, stored, [spec], memory_bytes=ROOMY)
        spoil(store, stored[number].key, whole)


def foreign_order(store: ObjectStore, snapshot: StoredSnapshot) -> StoredSnapshot:
    """The same snapshot with its tensors in the opposite order."""
    whole = store.get(snapshot.key)
    header = read_header(store, snapshot.key)
    entries, start, parts = [], 0, []
    for entry in reversed(header.tensors):
        entries.append(replace(entry, start=start, end=start + entry.end - entry.start))
        start = entries[-1].end
        parts.append(whole[header.data_start + entry.start : header.data_start + entry.end])
    data = build_header(header.metadata, entries) + b"".join(parts)
    spoil(store, snapshot.key, data)
    return replace(snapshot, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def unfinished(store: ObjectStore) -> list[str]:
    """What could be resumed."""
    if isinstance(store, LocalStore):
        return [path.name for path in store.folder.partial.glob("*")]
    return leftovers(store)


def test_a_snapshot_that_is_gone_is_named(store: ObjectStore) -> None:
    stored = store_run(store, 4)
    store.delete(stored[2].key)
    with pytest.raises(ObjectMissing, match=f"object {stored[2].key} does not exist"):
        reconstruct(store, stored, [output("out", [0.1] * 4)], memory_bytes=ROOMY)


def test_when_one_output_fails_none_is_kept(store: ObjectStore) -> None:
    stored = store_run(store, 4, "float32")
    before = [info.key for info in store.list()]
    good = output("out/good", [0.25] * 4)
    with pytest.raises(ValueError, match=r"out/huge has weights beyond float16's 65504; ask for float32"):
        reconstruct(store, stored, [good, output("out/huge", [1e6] * 4, "float16")], memory_bytes=ROOMY)
    assert [info.key for info in store.list()] == before
    store.put("out/taken", b"somebody else's")
    for order in ([good, output("out/taken", [0.25] * 4)], [output("out/taken", [0.25] * 4), good]):
        with pytest.raises(ObjectExists, match="out/taken"):
            reconstruct(store, stored, order, memory_bytes=ROOMY)
    assert [info.key for info in store.list()] == ["out/taken", *before]
    assert store.get("out/taken") == b"somebody else's"
    assert leftovers(store) == []


def test_mistakes_are_refused_before_anything_is_read(store: ObjectStore) -> None:
    nowhere = [StoredSnapshot("s", 100, Profile.power(0.1), "no/such", 1, "")]
    good = output("out", [1.0])
    mistakes: list[tuple[list[StoredSnapshot], list[OutputSpec], str]] = [
        ([], [good], "0 snapshots and 1 outputs"),
        (nowhere, [], "1 snapshots and 0 outputs"),
        (nowhere, [good, good], "two outputs have the same key"),
        (nowhere, [output("out", [1.0, 2.0])], "out has 2 coefficients for 1 snapshots"),
        (nowhere, [OutputSpec("out", [1.0], metadata(), "float32")], "out is to be float32, its metadata says float16"),
    ]
    for inputs, outputs, sentence in mistakes:
        with pytest.raises(ValueError, match=sentence):
            reconstruct(store, inputs, outputs, memory_bytes=ROOMY)
