"""State dicts in safetensors and in checkpoints that weights_only loading reads."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.state_dicts import read_state_dict
from phema.shared.snapshots.foreign.weights import state_dict_weights

NETWORK = NetworkConfig(
    img_resolution=8, img_channels=1, model_channels=16, channel_mult=(1,), num_blocks=1, channels_per_head=16
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.randn(3, 2), "mask": torch.full([2], -torch.inf), "steps": torch.tensor(7)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
def test_a_dict_of_tensors_is_read_exactly(tmp_path: Path, tensors: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert same(read_state_dict(path), tensors)


def test_the_state_dict_of_a_checkpoint_is_chosen(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    ema = {name: tensor + 1 for name, tensor in tensors.items()}
    torch.save({"model": tensors, "step": 3, "averages": {"ema": ema}}, tmp_path / "a.pt")
    assert same(read_state_dict(tmp_path / "a.pt"), tensors), "the only one there is"
    assert same(read_state_dict(tmp_path / "a.pt", "averages.ema"), ema)
    with pytest.raises(ForeignFileRefused, match="no dict of tensors under the key 'step'"):
        read_state_dict(tmp_path / "a.pt", "step")
    torch.save({"model": tensors, "ema": ema}, tmp_path / "b.pt")
    with pytest.raises(ForeignFileRefused, match="several dicts of tensors; choose with --key: model, ema"):
        read_state_dict(tmp_path / "b.pt")


def test_buffers_are_no_averages_and_may_be_infinite(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, tmp_path / "a.pt")
    found = state_dict_weights(tmp_path / "a.pt", buffers=["ma*"])
    assert (found.buffers, found.dtype, found.network) == (("mask",), "float32", None)
    with pytest.raises(ForeignFileRefused, match="'mask' holds values that are not finite"):
        state_dict_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ([torch.float16], "float16"),
        ([torch.bfloat16], "bfloat16"),
        ([torch.float16, torch.bfloat16], "float32"),
        ([torch.float64], "float32"),
    ],
)
def test_averages_are_stored_in_their_own_dtype(tmp_path: Path, dtypes: list[torch.dtype], stored: str) -> None:
    save_file({str(i): torch.ones(2, dtype=dtype) for i, dtype in enumerate(dtypes)}, tmp_path / "a.safetensors")
    assert state_dict_weights(tmp_path / "a.safetensors").dtype == stored


def test_a_network_is_held_to_strictly(tmp_path: Path) -> None:
    state = build_denoiser(NETWORK).half().state_dict()
    torch.save(state, tmp_path / "a.pt")
    found = state_dict_weights(tmp_path / "a.pt", network=NETWORK)
    build_denoiser(NETWORK).load_state_dict(dict(found.tensors), strict=True)
    assert set(found.buffers) == {name for name in state if name.endswith(("freqs", "phases"))}
    with pytest.raises(ForeignFileRefused, match=r"'unet.dec.8x8_block0.*' has the shape .*; its network has"):
        state_dict_weights(tmp_path / "a.pt", network=NETWORK.model_copy(update={"model_channels": 32}))


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_an_attack_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"a": torch.ones(1), "b": Attack(f"touch {canary}")}, tmp_path / "a.pt")
    with pytest.raises(ForeignFileRefused, match=r"it names 'posix\.system', which no checkpoint of tensors does"):
        read_state_dict(tmp_path / "a.pt")
    assert not canary.exists()


def pickled(path: Path, stream: bytes) -> None:
    """A checkpoint with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/version", b"3\n")


def test_bombs_are_refused_before_torch_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch read a hostile checkpoint"))
    path = tmp_path / "a.pt"
    # Pairs that hold the pair before twice: hashing the last one takes 2^60 steps.
    pairs = b"\x80\x02Nq\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    for stream, sentence in (
        (pairs + b"}h\x3cNs.", "a tuple is a key in it"),
        (pairs + b"c__builtin__\nset\n]h\x3ca\x85R.", "a tuple is a key in it"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "constructs an OrderedDict with arguments"),
        (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "it names '__builtin__.bytearray'"),
        (
            b"\x80\x02(X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\x000X\3\0\0\0cpuM\0\1tQ.",
            "256 elements of torch.HalfS",
        ),
        (b"\x80\x02}.}.", "bytes follow the end of its pickle"),
    ):
        pickled(path, stream)
        with pytest.raises(ForeignFileRefused, match=sentence):
            read_state_dict(path)


def test_two_directories_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """Python's zipfile finds the directory of the second archive, torch that of the first."""
    path = tmp_path / "a.pt"
    torch.save(tensors, path)
    good = path.read_bytes()
    for name, before in (("another", good), ("some bytes", b"PK\3\4")):
        path.write_bytes(before + good)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, name
        with pytest.raises(
            ForeignFileRefused,
            match=r"whose (end|directory) is not at the position that it states",
        ):
            read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/DATA.pkl", b"}.")
    with pytest.raises(ForeignFileRefused, match="two entries of the same name"):
        read_state_dict(path)


def test_what_a_trainer_saves_beside_tensors_is_passed_over(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    more = {"rng": torch.get_rng_state(), "tags": {"a", "b"}, "bytes": b"\xff", "device": torch.device("cpu")}
    states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({"model": model.state_dict(), **states, **more}, tmp_path / "a.pt")
    assert same(read_state_dict(tmp_path / "a.pt"), model.state_dict())
    torch.save({1: tensors, 2: tensors}, tmp_path / "a.pt")
    with pytest.raises(ForeignFileRefused, match=r"several dicts of tensors; choose with --key: 1 \(not a text\), 2"):
        read_state_dict(tmp_path / "a.pt")


def test_layers_may_share_their_weights(tmp_path: Path) -> None:
    shared = torch.randn(64, 64)
    torch.save({f"layers.{i}.weight": shared for i in range(12)}, tmp_path / "a.pt")
    assert len(read_state_dict(tmp_path / "a.pt")) == 12
    torch.save({f"layers.{i}.weight": shared for i in range(5000)}, tmp_path / "a.pt")
    with pytest.raises(ForeignFileRefused, match="many times the size of the file"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"deep": torch.ones([1] * 65)}, "tensor deep has 65 dimensions; at most 64 are allowed"),
        ({"n" * 1_001: torch.ones(1)}, "a name of 1,001 characters"),
    ],
)
def test_what_no_snapshot_can_hold_is_refused(
    tmp_path: Path, suffix: str, more: dict[str, Tensor], sentence: str
) -> None:
    path = tmp_path / f"a{suffix}"
    found = {"a": torch.ones(1), **more}
    save_file(found, path) if suffix == ".safetensors" else torch.save(found, path)
    with pytest.raises(ForeignFileRefused, match=sentence):
        state_dict_weights(path)


def test_very_many_tensors_are_refused_before_torch_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": empty for i in range(250_000)}, separators=(",", ":")).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr("phema.shared.snapshots.foreign.state_dicts.load_file", None)
    with pytest.raises(ForeignFileRefused, match="250,000 tensors; a snapshot file holds at most 50,000"):
        read_state_dict(tmp_path / "a.safetensors")


def test_the_name_of_the_metadata_is_refused(tmp_path: Path) -> None:
    torch.save({"__metadata__": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(ForeignFileRefused, match="named __metadata__, which safetensors reserves"):
        read_state_dict(tmp_path / "a.pt")


def test_other_files_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "a.pt"

    def refused(sentence: str) -> None:
        with pytest.raises(ForeignFileRefused, match=sentence):
            read_state_dict(path)

    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    refused("does not end as a zip file of torch, or was cut off")
    torch.save(tensors, path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 101):
        path.write_bytes(whole[:end])
        refused("does not end as a zip file of torch, or was cut off")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused("it is a compressed zip file")
    torch.save({"a": torch.ones(1).expand(10**6)}, path)
    refused("many times the size of the file")
    torch.save([1], path)
    refused("no dict of tensors, by itself or under one of its keys")
    torch.save({"a": torch.ones(1, dtype=torch.complex64)}, path)
    refused("'a' is torch.complex64 and torch.strided, not storable")
    torch.save({"a": torch.ones(1, dtype=torch.int8)}, path)
    refused("none of its tensors is floating-point")
    torch.save({3: torch.ones(1)}, path)
    refused("the name of one of its tensors is 3")
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-3])
    refused("not a safetensors file, or was cut off")
