"""Folders of `torch.distributed.checkpoint`: exactly their tensors, nothing else, and nothing from damaged ones."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader

from phema.sdk.importing import import_run
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.state_dicts import read_state_dict


def save(folder: Path, state: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that one process saves
        dcp.save(state, checkpoint_id=folder)
    return folder


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2).bfloat16())


def titan(step: int) -> dict[str, Any]:
    """A checkpoint as torchtitan writes it: the model's tensors in no dict, and an optimizer that holds the EMA."""
    trained, averaged = model(step).state_dict(), model(1000 + step).state_dict()
    state = {f"state.{name}.ema_params": value for name, value in averaged.items() if value.is_floating_point()}
    return {**trained, "ema_optimizer": {**state, "param_groups.0.weight.lr": 0.1}, "train_state": {"step": step}}


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_state_dict_is_read_by_its_key(tmp_path: Path) -> None:
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    trained[1](trained[0](torch.randn(3, 4))).sum().backward()
    optimizer.step()
    state = {"model": trained.state_dict(), "optimizer": optimizer.state_dict(), "step": 7}
    folder = save(tmp_path / "step-7", state)
    assert equal(read_state_dict(folder, "model"), dict(trained.state_dict()))
    moments = read_state_dict(folder, "optimizer.state.*.exp_avg")
    assert equal(moments, {str(i): s["exp_avg"] for i, s in optimizer.state_dict()["state"].items()})
    with pytest.raises(ForeignFileRefused, match="several dicts of tensors; choose with --key: model, optimizer"):
        read_state_dict(folder)
    with pytest.raises(ForeignFileRefused, match="no tensors under the key 'ema'"):
        read_state_dict(folder, "ema")
    assert equal(read_state_dict(save(tmp_path / "plain", trained.state_dict())), dict(trained.state_dict()))


def test_the_layout_of_torchtitan(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", titan(1))
    assert equal(read_state_dict(folder, "*"), dict(model(1).state_dict()))
    averaged = {name: value for name, value in model(1001).state_dict().items() if value.is_floating_point()}
    assert equal(read_state_dict(folder, "ema_optimizer.state.*.ema_params"), averaged)


def test_folders_of_one_training_become_a_run_without_a_service(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path / "checkpoint" / f"step-{step}", titan(step))
    (tmp_path / "checkpoint" / "notes").mkdir()
    how: dict[str, Any] = {
        "pattern": r"step-(?P<step>\d+)",
        "images_per_step": 64,
        "key": "ema_optimizer.state.*.ema_params",
        "profile": {"kind": "exponential", "rampup_ratio": 0.05},
        "buffers": ["*running*"],
    }
    done = import_run(tmp_path / "checkpoint", f"{tmp_path}/run", **how)
    assert (done.written, done.known) == (2, 0)
    assert import_run(tmp_path / "checkpoint", f"{tmp_path}/run", **how).known == 2
    import phema

    first, last = phema.open(f"{tmp_path}/run").snapshots()
    assert (first.num_images, last.num_images) == (640, 1280)
    # torchtitan's half-life of 5 % of the steps so far is a power function.
    assert last.profile.kind == "power"
    assert last.profile.sigma_rel == pytest.approx(0.063, abs=2e-4)


def test_sharded_tensors_are_whole(tmp_path: Path) -> None:
    """Two files of one tensor each as two processes write them, by merging the metadata of two saves."""
    whole = torch.randn(6, 4)
    parts = {0: whole[:4].clone(), 1: whole[4:].clone()}
    for rank, part in parts.items():
        save(tmp_path / f"rank{rank}", {"weight": part})
    merged = FileSystemReader(tmp_path / "rank0").read_metadata()
    second = FileSystemReader(tmp_path / "rank1").read_metadata()
    folder = tmp_path / "merged"
    folder.mkdir()
    (tmp_path / "rank0" / "__0_0.distcp").rename(folder / "__0_0.distcp")
    (tmp_path / "rank1" / "__0_0.distcp").rename(folder / "__1_0.distcp")
    described: Any = merged.state_dict_metadata["weight"]
    described.size = torch.Size([6, 4])
    chunk = described.chunks[0]
    described.chunks.append(type(chunk)(offsets=torch.Size([4, 0]), sizes=torch.Size([2, 4])))
    [(index, info)] = second.storage_data.items()
    moved = type(index)(fqn="weight", offset=torch.Size([4, 0]), index=1)
    info.relative_path = "__1_0.distcp"
    merged.storage_data[moved] = info
    (folder / ".metadata").write_bytes(pickle.dumps(merged))
    assert equal(read_state_dict(folder), {"weight": whole})


class _Call:
    """Unpickled by Python, it would write a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def _hostile(metadata: Any, folder: Path) -> None:
    metadata.planner_data = {"weight": _Call(folder / "ran")}


def _outside(metadata: Any, folder: Path) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../secret"


def _beyond(metadata: Any, folder: Path) -> None:
    for info in metadata.storage_data.values():
        info.length += 1


def _shared(metadata: Any, folder: Path) -> None:
    infos = list(metadata.storage_data.values())
    infos[1].offset = infos[0].offset


def _huge(metadata: Any, folder: Path) -> None:
    described = metadata.state_dict_metadata["weight"]
    described.size = torch.Size([2**40, 4])
    described.chunks[0].sizes = described.size


def _hole(metadata: Any, folder: Path) -> None:
    metadata.state_dict_metadata["weight"].size = torch.Size([7, 4])


def _other_shape(metadata: Any, folder: Path) -> None:
    described = metadata.state_dict_metadata["weight"]
    described.size = described.chunks[0].sizes = torch.Size([4, 6])


def _compressed(metadata: Any, folder: Path) -> None:
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_hostile, "which no distributed checkpoint does"),
        (_outside, r"it names a file '\.\./secret' outside its folder"),
        (_beyond, "it was cut off: a tensor reaches beyond its end"),
        (_shared, "two of its tensors share their bytes"),
        (_huge, "more elements than are stored"),
        (_hole, "the parts of its tensor 'weight' are not the whole of it"),
        (_other_shape, r"it is torch.float32 of shape \(6, 4\), not what is announced"),
        (_compressed, "its tensor '.*' is compressed"),
    ],
)
def test_damaged_and_hostile_folders_are_refused(
    tmp_path: Path, change: Callable[[Any, Path], None], sentence: str
) -> None:
    folder = save(tmp_path / "step-1", {"weight": torch.randn(6, 4), "bias": torch.randn(6, 4)})
    metadata = FileSystemReader(folder).read_metadata()
    change(metadata, tmp_path)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ForeignFileRefused, match=sentence):
        read_state_dict(folder)
    assert not (tmp_path / "ran").exists()


def test_a_part_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", {"weight": torch.randn(600, 4)})
    file = folder / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[content.index(b"data.pkl") + 8 + 60] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ForeignFileRefused, match=r"in tensor 'weight',"):
        read_state_dict(folder)


def test_averages_in_a_distributed_checkpoint_of_phema(tmp_path: Path) -> None:
    """`ema.state_dict()` saved as docs/own-training.md says; each average is a state dict of its own."""
    trained = nn.Linear(4, 2)
    ema = PowerFunctionEMA(trained, [0.05, 0.10])
    ema.update(8)
    folder = save(tmp_path / "step-1", {"model": trained.state_dict(), "ema": ema.state_dict()})
    assert equal(read_state_dict(folder, "ema.averages.1"), dict(ema.tensors(1)))
