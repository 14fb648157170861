"""Published weights: where they are looked for, that nothing in them is executed, and what is said without them."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.weights.assigning import assign
from phema.shared.metrics.weights.published import LoadedWeights, PublishedWeights, find_weights
from phema.shared.snapshots.stores.interface import ObjectStore

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}
NOWHERE = PublishedWeights("inception", ("published.pth", "other-name.pth"), "http://127.0.0.1:9/published.pth")


@pytest.fixture(autouse=True)
def _own_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the published file."""
    (tmp_path / "weights").mkdir()
    torch.save(TENSORS, tmp_path / "weights" / "published.pth")
    return tmp_path / "weights"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(found: LoadedWeights) -> bool:
    return found.tensors.keys() == TENSORS.keys() and all(torch.equal(found.tensors[n], TENSORS[n]) for n in TENSORS)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickled_file_is_converted_once_and_kept_by_hash(folder: Path, store: ObjectStore, old: bool) -> None:
    """Also in the format that torch wrote before 2020."""
    file = folder / "published.pth"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=not old)
    for path in (folder, file):
        found = find_weights(NOWHERE, path, store)
        assert same(found)
        assert found.sha256 == sha256(file)
    (kept,) = store.list("extractors/")
    assert kept.key == f"extractors/inception/{sha256(file)}.safetensors"
    assert safetensors.torch.load(store.get(kept.key)).keys() == TENSORS.keys()
    file.unlink()
    later = find_weights(NOWHERE, None, store)
    assert same(later)
    assert later.sha256 == found.sha256, "the figures of both have the same provenance"


def test_without_a_store_the_file_is_read_each_time(folder: Path) -> None:
    assert same(find_weights(NOWHERE, folder, None))
    (folder / "published.pth").rename(folder / "other-name.pth")
    assert same(find_weights(NOWHERE, folder, None))


def test_safetensors_are_read_as_they_are(tmp_path: Path, store: ObjectStore) -> None:
    file = tmp_path / "inception.safetensors"
    safetensors.torch.save_file(TENSORS, file)
    for path in (tmp_path, file):
        found = find_weights(NOWHERE, path, store)
        assert same(found)
        assert found.sha256 == sha256(file)
    assert [*store.list("extractors/")] == []


@pytest.mark.parametrize("old", [False, True])
def test_an_object_of_the_store_under_its_published_name(folder: Path, store: ObjectStore, old: bool) -> None:
    torch.save(TENSORS, folder / "published.pth", _use_new_zipfile_serialization=not old)
    data = (folder / "published.pth").read_bytes()
    store.put("extractors/inception/published.pth", data)
    for _ in range(2):  # at first from the pickle, then from its conversion
        found = find_weights(NOWHERE, None, store)
        assert same(found)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert [info.key for info in store.list("extractors/")] == sorted(
        [f"extractors/inception/{found.sha256}.safetensors", "extractors/inception/published.pth"]
    )


def test_several_weights_in_the_store_are_ambiguous(folder: Path, store: ObjectStore) -> None:
    first = find_weights(NOWHERE, folder, store)
    torch.save({"weight": torch.zeros(2)}, folder / "published.pth")
    second = find_weights(NOWHERE, folder, store)
    assert second.sha256 != first.sha256
    with pytest.raises(ScoringError, match=r"has several weights in the store \(.*\); delete all but one, or"):
        find_weights(NOWHERE, None, store)
    assert find_weights(NOWHERE, folder, store).sha256 == second.sha256


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The folder behind HTTP."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_download_goes_through_the_cache_of_torch(web: str, folder: Path, tmp_path: Path) -> None:
    published = PublishedWeights("inception", ("published.pth",), f"{web}/published.pth")
    found = find_weights(published, None, None)
    assert same(found)
    assert found.sha256 == sha256(folder / "published.pth")
    (folder / "published.pth").unlink()
    assert same(find_weights(published, None, None))
    assert (tmp_path / "torch" / "hub" / "checkpoints" / "published.pth").is_file()


def test_what_is_missing_is_said_in_one_sentence(folder: Path, tmp_path: Path, store: ObjectStore) -> None:
    with pytest.raises(ScoringError) as caught:
        find_weights(NOWHERE, None, store)
    assert str(caught.value).startswith(
        "extractor inception has no weights: put published.pth into the folder that PHEMA_EXTRACTOR_WEIGHTS names, or "
        "into the store as extractors/inception/published.pth; its download from http://127.0.0.1:9/published.pth fail"
    )
    with pytest.raises(ScoringError, match=r"finds no weights: .*none does not exist; it must be the file pub"):
        find_weights(NOWHERE, tmp_path / "none", store)
    (folder / "published.pth").unlink()
    with pytest.raises(ScoringError, match=r"finds no weights in .*weights: put published\.pth there"):
        find_weights(NOWHERE, folder, store)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_no_code_in_a_file_is_executed(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = tmp_path / "published.pth"
    for data in (pickle.dumps({"weight": _Code()}, 2), pickle.dumps(_Code(), 2)):
        hostile.write_bytes(data)
        with pytest.raises(ScoringError, match=r"weights .*published\.pth of extractor inception cannot be read"):
            find_weights(NOWHERE, hostile, store)
    torch.save({"weight": _Code()}, hostile)
    with pytest.raises(ScoringError, match="cannot be read"):
        find_weights(NOWHERE, hostile, store)
    store.put("extractors/inception/published.pth", hostile.read_bytes())
    with pytest.raises(ScoringError, match=r"object extractors/inception/published\.pth holds no weights of inception"):
        find_weights(NOWHERE, None, store)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("published.pth", b""),
        ("published.pth", b"hello"),
        ("published.pth", b"PK\x03\x04 broken"),
        ("inception.safetensors", b"hello"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ScoringError, match=rf"weights .*{name} of extractor inception cannot be read"):
        find_weights(NOWHERE, tmp_path, None)


def test_other_things_than_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS}, tmp_path / "published.pth")
    with pytest.raises(ScoringError, match="it holds other things than tensors by name"):
        find_weights(NOWHERE, tmp_path, None)


def test_weights_of_another_network_are_named() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    weights = LoadedWeights({}, "", "x.pth")
    right = {f"0.{name}": tensor for name, tensor in TENSORS.items()}
    right |= {f"1.{name}": torch.ones(2) for name in ("weight", "bias", "running_mean", "running_var")}
    assign(network, right, weights, "inception")  # an old file without counters of batches
    assert network(torch.ones(2, 3)).device.type == "cpu"
    wrong = {**right, "0.bias": torch.zeros(5), "head": torch.zeros(1)}
    del wrong["0.weight"]
    with pytest.raises(ScoringError) as caught:
        assign(network, wrong, weights, "inception")
    assert str(caught.value) == (
        "weights x.pth do not fit extractor inception: 1 missing tensors such as 0.weight; 1 unknown tensors such as "
        "head; 1 other shapes such as 0.bias"
    )
