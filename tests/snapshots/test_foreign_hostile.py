"""Hostile files: each is refused in one sentence, and nothing in it runs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phema.shared.snapshots.foreign import pickle_reader
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_reader import PickleReader
from phema.shared.snapshots.foreign.pickle_records import Storage, StoredTensor
from phema.shared.snapshots.foreign.published_allowlist import PUBLISHED
from phema.shared.snapshots.foreign.published_pickles import parse_published
from phema.shared.snapshots.foreign.tensor_storages import read_tensor
from phema.shared.snapshots.foreign.weights import convert_published
from tests.snapshots import foreign_files as foreign

P4 = b"\x80\x04"


def read(data: bytes) -> Any:
    """All of it: structure and tensors."""
    return convert_published(parse_published(memoryview(data), "bad.pkl"), "bad.pkl")


def refused(data: bytes, sentence: str) -> None:
    with pytest.raises(ForeignFileRefused, match=sentence) as caught:
        read(data)
    assert str(caught.value).startswith("bad.pkl")
    assert "\n" not in str(caught.value)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def glob(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that a successful attack makes."""
    return tmp_path / "canary"


_watched: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _watched is not None and event in ("os.system", "os.exec", "os.fork", "subprocess.Popen", "pickle.find_class"):
        _watched.append(event)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def _nothing_runs(canary: Path) -> Iterator[None]:
    """No command, no process, and no name of a pickle looked up by Python's unpickler, torch's included."""
    global _watched
    _watched = []
    yield
    seen, _watched = _watched, None
    assert seen == []
    assert not canary.exists()


class Reduces:
    """Asks its reader to call a function."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def command(canary: Path) -> str:
    return f"touch {canary}"


def attacks() -> dict[str, Callable[[str], bytes]]:
    """By name, streams that run a shell command when Python unpickles them."""
    posix = os.system.__module__

    def argument(shell: str) -> bytes:
        return text(shell) + b"\x85"

    return {
        "STACK_GLOBAL REDUCE": lambda c: P4 + glob(posix, "system") + argument(c) + b"R.",
        "GLOBAL REDUCE": lambda c: P4 + f"c{posix}\nsystem\n".encode() + argument(c) + b"R.",
        "INST": lambda c: b"(" + text(c) + f"i{posix}\nsystem\n.".encode(),
        "OBJ": lambda c: b"(" + f"c{posix}\nsystem\n".encode() + text(c) + b"o.",
        "NEWOBJ": lambda c: P4 + glob("subprocess", "Popen") + argument(c) + b"\x81.",
        "NEWOBJ_EX": lambda c: P4 + glob("subprocess", "Popen") + b")}" + text("args") + text(c) + b"s\x92.",
        "eval": lambda c: P4 + glob("builtins", "eval") + argument(f"__import__('os').system({c!r})") + b"R.",
        "getattr": lambda c: P4 + glob("builtins", "getattr") + b"." ,
        "dotted name": lambda c: P4 + glob("torch.storage", "os.system") + argument(c) + b"R.",
        "allowed module": lambda c: P4 + glob("torch._utils", "os") + b".",
        "EXT1": lambda c: P4 + b"\x82\x01.",
        "EXT2": lambda c: P4 + b"\x83\x01\x00.",
        "EXT4": lambda c: P4 + b"\x84\x01\x00\x00\x00.",
        "PERSID": lambda c: P4 + f"P{c}\n.".encode(),
        "BINPERSID": lambda c: P4 + text(c) + b"Q.",
        "REDUCE of a class": lambda c: P4 + glob("dnnlib.util", "EasyDict") + argument(c) + b"R.",
        "NEWOBJ of a function": lambda c: P4 + glob("torch.storage", "_load_from_bytes") + argument(c) + b"\x81.",
        "EasyDict of arguments": lambda c: P4 + glob("dnnlib.util", "EasyDict") + argument(c) + b"\x81.",
        "call of a text": lambda c: P4 + text("os.system") + argument(c) + b"R.",
        "arguments that are no tuple": lambda c: P4 + glob("collections", "OrderedDict") + b"]R.",
        "BUILD of a dict": lambda c: P4 + b"}}" + text("__class__") + text(c) + b"sb.",
        "BUILD of a name": lambda c: P4 + glob("torch", "float16") + b"}" + text("x") + text(c) + b"sb.",
        "BUILD of slots": lambda c: (
            P4 + glob("dnnlib.util", "EasyDict") + b")\x81}}" + text("a") + text(c) + b"s\x86b."
        ),
        "BUILD twice": lambda c: (
            P4 + glob("torch.nn.modules.container", "ModuleDict") + b")\x81"
            + 2 * (b"}" + text("__setstate__") + glob("torch", "float16") + b"sb") + b"."
        ),
        "text protocol": lambda c: f"c{posix}\nsystem\n(V{c}\ntR.".encode(),
        "buffers outside": lambda c: b"\x80\x05\x97.",
    }  # fmt: skip


@pytest.mark.parametrize("name", attacks())
def test_no_operation_runs_anything(name: str, canary: Path) -> None:
    refused(attacks()[name](command(canary)), r"^bad\.pkl is refused: .+ \(at byte \d+\)$")


@pytest.mark.parametrize("place", ["ema", "encoder", "dataset_kwargs", "module_src", "a parameter", "an argument"])
@pytest.mark.parametrize("function", [os.system, subprocess.Popen, print, torch.load, getattr])
def test_calls_are_refused_wherever_they_stand(place: str, function: Any, canary: Path) -> None:
    attack = Reduces(function, (command(canary),))
    ema = foreign.network()
    if place == "a parameter":
        ema.unet._parameters["out_gain"] = attack
    if place == "an argument":
        ema._init_kwargs["dropout"] = attack
    if place == "module_src":
        ema._init_kwargs["label_dim"] = foreign._Persistent("Precond")
        ema._init_kwargs["label_dim"].source = attack
    if place in ("ema", "encoder", "dataset_kwargs"):
        data = foreign.dump(foreign.EasyDict({"ema": ema, place: attack}))
    else:
        data = foreign.published(ema)
    refused(data, "which no published network does")


def test_class_source_is_passed_over(canary: Path) -> None:
    """It is in the file, it would end this process, and no module of its is made."""
    data = foreign.published(foreign.network())
    assert foreign.SOURCE.encode() in data
    assert read(data).network.label_dim == 3
    assert not {"dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence"} & set(sys.modules)


def test_a_storage_may_hide_no_pickle_of_its_own(canary: Path) -> None:
    inner = pickle.dumps(Reduces(os.system, (command(canary),)), protocol=2)
    refused(with_payload(inner), "in a storage, is refused: it names 'posix.system'")
    refused(with_payload(foreign_payload()[:137] + inner), "in a storage, is refused: it names 'posix.system'")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", inner)
    refused(with_payload(archive.getvalue()), "in a storage, is refused: it names 'posix.system'")


def foreign_payload(count: int = 1, zipped: bool = False) -> bytes:
    """torch's own serialisation of a storage of float16 zeros."""
    file = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(count, dtype=torch.float16).untyped_storage(), dtype=torch.float16, _internal=True
    )
    torch.save(storage, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def with_payload(payload: bytes) -> bytes:
    """A published file whose `unet.out_gain` has this storage."""
    return foreign.published(spliced(payload))


def spliced(payload: bytes, offset: int = 0, shape: tuple[int, ...] = (), strides: tuple[int, ...] = ()) -> Any:
    ema = foreign.network()
    storage = Reduces(torch.storage._load_from_bytes, (payload,))
    tensor = Reduces(torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, OrderedDict()))
    ema.unet._parameters["out_gain"] = Reduces(torch._utils._rebuild_parameter, (tensor, False, OrderedDict()))
    return ema


@pytest.mark.parametrize("zipped", [False, True])
def test_both_forms_of_serialised_storages_are_read(zipped: bool) -> None:
    found = read(with_payload(foreign_payload(zipped=zipped)))
    assert found.tensors["unet.out_gain"].item() == 0


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def zipped_pickle(count: int) -> bytes:
    with zipfile.ZipFile(io.BytesIO(foreign_payload(zipped=True))) as archive:
        return archive.read("archive/data.pkl").replace(b"K\x01", b"J" + struct.pack("<i", count))


def test_bombs_inside_storages_are_refused_before_torch_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch read a hostile storage"))
    good = foreign_payload(1)
    at = good.index(b"cpu") + 5  # BININT1 1, the number of elements
    assert good[at : at + 2] == b"K\x01"
    huge = good[:at] + b"J\xff\xff\xff\x7f" + good[at + 2 :]
    refused(with_payload(huge), r"announces 2,147,483,647 elements of float16, 4,294,967,294 bytes, and 2 are there")
    refused(
        with_payload(good[:-10] + b"\xff" * 8 + good[-2:]),
        "announces 1 elements, its data another number",
    )
    refused(with_payload(good + b"\0\0"), "announces 1 elements of float16, 2 bytes, and 4 are there")
    refused(with_payload(good.replace(b"HalfStorage", b"LongStorage")), "it names 'torch.LongStorage'")
    refused(with_payload(good.replace(b"HalfStorage", b"FloatStorage")), "1 elements of float32, 4 bytes, and 2")
    refused(with_payload(good.replace(b"little_endian", b"little_enDian")), "big-endian")
    refused(with_payload(pickle.dumps(1, 2) * 5), "does not begin as torch's serialisation does")
    refused(with_payload(b""), "it was cut off")
    bomb = {"data.pkl": zipped_pickle(2**30), "byteorder": b"little", "data/0": bytes(2**20)}
    refused(with_payload(zip_of(bomb, zipfile.ZIP_DEFLATED)), "it is a compressed zip file")
    refused(with_payload(zip_of({**bomb, "data/0": b"12"})), "announces 1,073,741,824 elements")
    refused(with_payload(zip_of({"data.pkl": zipped_pickle(1)})), "lacks its data '0'")
    refused(with_payload(zip_of({"data.pkl": zipped_pickle(1), "byteorder": b"big", "data/0": b"12"})), "big-endian")
    refused(with_payload(zip_of({str(i): b"" for i in range(99)})), "with 5,534 bytes of names")
    refused(with_payload(zip_of({"data/0": b"12"})), "without data.pkl")
    refused(with_payload(zip_of({"data.pkl": zipped_pickle(1) + b"N."})), "not the serialisation of one storage")
    refused(with_payload(b"PK\x03\x04" + bytes(60)), "does not end as a zip file")
    refused(with_payload(b"PK\x03\x04" + b"PK\x05\x06" + bytes(10) + b"\xff" * 6 + b"\0\0"), "bytes of names")
    whole = foreign_payload(zipped=True)
    assert whole[-42:-38] == b"PK\6\7", "torch writes zip64, whose own directory size counts"
    refused(with_payload(whole[:-58] + b"\0\0\0\1" + whole[-54:]), "bytes of names")
    refused(with_payload(whole[:-22] + whole[-22:-2] + b"\1\0x"), "does not end as a zip file")


@pytest.mark.parametrize("zipped", [False, True])
def test_changed_storages_are_refused_or_read(zipped: bool) -> None:
    """What the checks let through torch can read too: no other error, and never more elements."""
    good = foreign_payload(5, zipped=zipped)
    for at in range(0, len(good), 3):
        for flipped in (1, 128):
            payload = memoryview(good[:at] + bytes([good[at] ^ flipped]) + good[at + 1 :])
            with contextlib.suppress(ForeignFileRefused):
                assert len(read_tensor(StoredTensor(Storage(payload), 0, (5,), (1,)), "bad.pkl")) == 5


def test_deep_nesting_of_modules_is_let_go_without_recursion() -> None:
    """Objects that hold each other end one after the other, not by a stack that overflows."""
    module = glob("torch.nn.modules.container", "ModuleDict")
    start = P4 + b"(" + module + b"\x94" + text("_modules") + b"\x94"
    depth = 60_000
    # h0 is the class, h1 the key: each level is a module that is being built, all are filled from the last one up.
    data = start + b"h\0)\x81}h\1" * depth + b"}" + b"sb" * depth + b"t."
    refused(data, "no dict with the key 'ema'")


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "sentence"),
    [
        (1, (), (), "reaches to element 2 of a storage of 1"),
        (0, (2,), (1,), "reaches to element 2"),
        (0, (2,), (0,), "overlaps itself"),
        (0, (3,), (2**47,), "reaches to element 281,474,976,710,657"),
        (-1, (), (), "offset -1"),
        (0, (1,), (-1,), "not made of storage, offset, size and stride"),
        (0, (-1,), (1,), "not made of storage, offset, size and stride"),
        (0, (1, 1), (1,), "2 sizes and 1 strides"),
        (0, (True,), (1,), "not made of storage, offset, size and stride"),
        (0, (2**60,), (0,), "not made of storage, offset, size and stride"),
        (0, (1,) * 9, (1,) * 9, "9 sizes"),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], sentence: str
) -> None:
    storage = Reduces(torch.storage._load_from_bytes, (foreign_payload(1),))
    data = foreign.dump(Reduces(torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, {})))
    with pytest.raises(ForeignFileRefused, match=sentence):
        read_tensor(PickleReader(memoryview(data), "bad.pkl", PUBLISHED).load(), "bad.pkl")


def test_strided_tensors_keep_their_values() -> None:
    file = io.BytesIO()
    data = torch.arange(24, dtype=torch.float16)
    storage = torch.storage.TypedStorage(wrap_storage=data.untyped_storage(), dtype=data.dtype, _internal=True)
    torch.save(storage, file, _use_new_zipfile_serialization=False)
    stored = StoredTensor(Storage(memoryview(file.getvalue())), 4, (2, 3, 2), (1, 4, 2))
    found = read_tensor(stored, "net.pkl")
    assert torch.equal(found, data.as_strided((2, 3, 2), (1, 4, 2), 4))
    assert found.is_contiguous()
    overlapping = StoredTensor(stored.storage, 0, (4, 4), (1, 3))
    with pytest.raises(ForeignFileRefused, match="overlaps itself"):
        read_tensor(overlapping, "net.pkl")


def bombs() -> dict[str, tuple[bytes, str]]:
    tuples = P4 + b"N\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    return {
        "bytes": (P4 + b"\x8e" + struct.pack("<Q", 2**62), "it was cut off"),
        "bytes of 32 bits": (P4 + b"B" + struct.pack("<I", 2**32 - 1), "it was cut off"),
        "text": (P4 + b"\x8d" + struct.pack("<Q", 2**62) + b"x", "its texts are longer"),
        "frame": (P4 + b"\x95" + struct.pack("<Q", 2**63), "a frame of"),
        "number": (P4 + b"\x8a\xff" + b"\x01" * 255 + b".", "a number in it has 255 bytes"),
        "LONG4": (P4 + b"\x8b" + struct.pack("<I", 2**31 - 1), "LONG4"),
        "decimal number": (P4 + b"L" + b"9" * 10**6 + b"L\n.", "LONG"),
        "operations": (P4 + b"]" * 20_001, "more than 20,000 pickle operations"),
        "sets": (P4 + b"\x8f" * 20_001, "more than 20,000 pickle operations"),
        "nesting": (P4 + b"]" + b"]" * 9_000 + b"a" * 9_000 + b".", "no dict with the key 'ema'"),
        "tuples that hold themselves twice, as a key": (tuples + b"}h\x3cN" + b"s.", "is a key in it"),
        "the same, as a member": (tuples + b"\x8f(h\x3c\x90.", "is a key in it"),
        "the same, as arguments": (
            P4 + glob("collections", "OrderedDict") + tuples[2:] + b"\x85R.", "it calls a tuple with a tuple"
        ),
        "keys of one hash": (P4 + b"}\x8a\x08" + struct.pack("<q", 2**61 - 1) + b"Ns.", "is a key in it"),
        "memo": (P4 + b"N" + b"r\xff\xff\xff\xff" + b".", "no dict with the key 'ema'"),
        "unknown memo": (P4 + b"j\xff\xff\xff\xff.", "refers to its object 4294967295"),
        "dup": (P4 + b"]2222.", "DUP"),
        "protocol": (b"\x80\x06N.", "its pickle protocol is 6; it should be 2 or 3"),
        "name without end": (P4 + b"c" + b"x" * 10**6, "does not end within 200 bytes"),
        "left over": (P4 + b"NN.", "objects left over"),
        "no operand": (P4 + b"R.", "lacks its operand"),
        "no mark": (P4 + b"Nt.", "lacks its mark"),
        "mark as operand": (P4 + b"(a.", "lacks its operand"),
        "odd items": (P4 + b"}(Nu.", "sets items"),
        "text that is none": (P4 + b"\x8c\x01\xff.", "not UTF-8"),
        "unknown operation": (P4 + b"\xff.", "0xff"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_in_no_time_and_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_OPERATIONS", 20_000)
    data, sentence = bombs()[name]
    tracemalloc.start()
    started = time.process_time()
    refused(data, sentence)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 2**24


def test_networks_that_contain_themselves_are_refused() -> None:
    ema = foreign.network()
    ema.unet.enc._modules["8x8_block0"] = ema.unet.enc
    refused(foreign.published(ema), "or contains itself")
    # Each level holds the next one twice: 2^8 modules where the file has eight, but never 2^40.
    inner: Any = foreign._Persistent("Block")
    for _ in range(40):
        outer = foreign._Persistent("Block")
        outer._modules.update({f"m{i}": inner for i in range(9)})
        inner = outer
    ema = foreign.network()
    ema.unet.enc._modules["8x8_block0"] = inner
    refused(foreign.published(ema), "or contains itself")


def test_shapes_are_those_of_torch_modules_only() -> None:
    ema = foreign.network()
    ema.unet.enc._modules["8x8_block0"] = foreign._Persistent("\x1b[31mEvil\n")
    refused(foreign.published(ema), r"is a '\\x1b\[31mEvil\\n'; known:")
    ema = foreign.network()
    ema.unet._parameters["out_gain"] = 3
    refused(foreign.published(ema), "'unet.out_gain' is a int, not a tensor")
    ema = foreign.network()
    ema.unet._modules["out_conv"] = 3
    refused(foreign.published(ema), "'unet.out_conv' is a int, not a module")
    ema = foreign.network()
    ema.unet.__dict__["_buffers"] = [1]
    refused(foreign.published(ema), "_buffers of its module 'unet' are not a dict")


def test_a_file_cut_off_anywhere_is_refused() -> None:
    data = foreign.published(foreign.network())
    step = len(data) // 150
    for end in [*range(0, 200, 7), *range(200, len(data), step), *range(len(data) - 40, len(data))]:
        with pytest.raises(ForeignFileRefused):
            read(data[:end])


def test_changed_bytes_are_refused_or_read_but_never_run() -> None:
    """A byte anywhere set to another value: a sentence, or a network; no other error."""
    data = bytearray(foreign.published(foreign.network(num_blocks=1)))
    generator = torch.Generator().manual_seed(0)
    refusals = 0
    for _ in range(300):
        at = int(torch.randint(4000, [1], generator=generator))
        before, data[at] = data[at], int(torch.randint(256, [1], generator=generator))
        try:
            parse_published(memoryview(bytes(data)), "bad.pkl")
        except ForeignFileRefused:
            refusals += 1
        data[at] = before
    assert refusals > 30
