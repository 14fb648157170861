"""Datasets from files: exact pictures, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from phema.shared.datasets import Dataset, DatasetError, EpochSampler, open_dataset, open_files, stored_pictures
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.recipes.run_config import DatasetConfig
from tests.datasets.photos import encoded, labelled, npy, photo_files, photograph, tiles, write_folder, write_zip

SIZE = 16
Files = Mapping[str, bytes]


def opened(path: Path, held_out: int = 0) -> Dataset:
    return open_dataset(DatasetConfig(name="photos", path=str(path), held_out=held_out))


def everything(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.train.batch(np.arange(len(dataset.train)))


@pytest.fixture(params=["folder", "stored", "deflated"])
def store_as(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    def write(files: Files) -> Path:
        match request.param:
            case "folder":
                return write_folder(tmp_path / "set", files)
            case "stored":
                return write_zip(tmp_path / "set.zip", files)
            case _:
                return write_zip(tmp_path / "set.zip", files, zipfile.ZIP_DEFLATED)

    return write


def test_pictures_come_back_as_they_are(store_as: Callable[[Files], Path]) -> None:
    files, pictures = photo_files(12, SIZE)
    dataset = opened(store_as(files))
    assert (dataset.name, dataset.resolution, dataset.channels, dataset.num_classes) == ("photos", SIZE, 3, 4)
    images, labels = everything(dataset)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    levels = np.rint((images.astype(np.float64) + 1) * 127.5)
    np.testing.assert_allclose(images, levels / 127.5 - 1, atol=1e-7)
    found = {
        level.astype(np.uint8).transpose(1, 2, 0).tobytes(): label
        for level, label in zip(levels, labels.tolist(), strict=True)
    }
    assert found == {picture.tobytes(): i % 4 for i, picture in enumerate(pictures)}
    np.testing.assert_array_equal(labels, dataset.train.labels)
    dataset.verify()


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    camera = photograph("camera")[:64, :64]
    dataset = opened(write_folder(tmp_path, {"a.png": encoded(camera), "b.jpeg": encoded(camera, "JPEG", quality=95)}))
    images, _ = everything(dataset)
    assert images.shape == (2, 1, 64, 64)
    assert min(np.abs(image[0] - (camera / 127.5 - 1)).max() for image in images) < 1e-6
    assert np.abs(images[0] - images[1]).mean() < 0.02


def test_uint8_arrays_are_pictures(tmp_path: Path) -> None:
    tile = tiles(1, SIZE)[0].transpose(2, 0, 1)
    images, _ = everything(opened(write_folder(tmp_path, {"a.npy": npy(tile)})))
    np.testing.assert_allclose(images[0], tile / 127.5 - 1, atol=1e-7)


def test_class_folders_are_labels(store_as: Callable[[Files], Path]) -> None:
    files, _ = photo_files(6, SIZE)
    data = list(files.values())
    names = ["dog/a.png", "cat/deep/a.png", "cat/b.png", "emu/a.png", "dog/b.png", "emu/b.png"]
    dataset = opened(store_as(dict(zip(names, data, strict=False))))
    assert dataset.num_classes == 3
    assert np.bincount(dataset.train.labels).tolist() == [2, 2, 2]


def test_numbered_class_folders_are_in_the_order_of_their_text(tmp_path: Path) -> None:
    pictures = tiles(3, SIZE)
    files = {f"all/{number}/x.png": encoded(picture) for number, picture in zip((10, 9, 1), pictures, strict=True)}
    images, labels = everything(opened(write_zip(tmp_path / "x.zip", files)))
    order = [
        int(labels[np.argmin([np.abs(i.transpose(1, 2, 0) - (p / 127.5 - 1)).max() for i in images])]) for p in pictures
    ]
    assert order == [1, 2, 0]


@pytest.mark.parametrize("extra", [{}, {"dataset.json": b'{"labels": null}'}])
def test_without_labels_there_are_no_classes(tmp_path: Path, extra: Files) -> None:
    picture = encoded(tiles(1, SIZE)[0])
    dataset = opened(write_folder(tmp_path, {"a.png": picture, "b.png": picture, "README.txt": b"hello", **extra}))
    assert (dataset.num_classes, dataset.train.labels.tolist()) == (0, [0, 0])
    with pytest.raises(DatasetError, match=r"network\.label_dim is 10, but photos has no labels; use 0"):
        dataset.check(network(label_dim=10))


def test_pictures_need_no_vae(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": TILE})
    with pytest.raises(DatasetError, match=r"dataset\.vae is x, but photos holds pictures, not latents; leave it out"):
        open_dataset(DatasetConfig(name="photos", path=str(tmp_path), held_out=0, vae="x"))


def network(**fields: object) -> NetworkConfig:
    base = {"img_resolution": SIZE, "img_channels": 3, "label_dim": 4, "model_channels": 16, "channel_mult": (1, 2)}
    return NetworkConfig.model_validate({**base, "attn_resolutions": (), "channels_per_head": 16, **fields})


def test_held_out_pictures_are_not_trained_on(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", photo_files(20, SIZE)[0])
    dataset, other = opened(path, held_out=5), opened(path, held_out=8)
    kept, _ = dataset.held_out.batch(np.arange(5))
    train, _ = everything(dataset)
    assert len({image.tobytes() for image in (*kept, *train)}) == 20
    np.testing.assert_array_equal(kept, other.held_out.batch(np.arange(3, 8))[0])
    with pytest.raises(DatasetError, match=r"dataset\.held_out is 20, but photos has 20 pictures"):
        opened(path, held_out=20)


def test_batches_are_the_same_from_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_pictures, "IN_MEMORY_BYTES", 0)  # nothing is remembered: each batch reads the file
    pictures = opened(write_zip(tmp_path / "x.zip", photo_files(32, SIZE)[0], zipfile.ZIP_DEFLATED)).train
    wanted, _ = pictures.batch(np.arange(32))
    wrong: list[int] = []

    def read(seed: int) -> None:
        for indices in np.random.RandomState(seed).permutation(32).reshape(8, 4):
            if not np.array_equal(pictures.batch(indices)[0], wanted[indices]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_run_resumes_at_any_picture(tmp_path: Path) -> None:
    """What the run sees from picture n on does not depend on where it started."""
    path = write_zip(tmp_path / "x.zip", photo_files(10, SIZE)[0])
    pictures = opened(path).train
    whole, _ = pictures.batch(EpochSampler(10, seed=3).take(0, 40))
    for start in (0, 1, 9, 10, 23):
        again = opened(path).train
        images, _ = again.batch(EpochSampler(10, seed=3).take(start, 40 - start))
        np.testing.assert_array_equal(images, whole[start:])


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    files, pictures = photo_files(4, SIZE)
    names = [name for name in files if name != "dataset.json"]
    variants = {
        "same": files,
        "other picture": {**files, names[0]: encoded(255 - pictures[0])},
        "other label": {**files, "dataset.json": labelled(names, [0, 1, 2, 2])},
        "fewer": {name: files[name] for name in names[:3]},
    }
    found = {}
    for i, (kind, variant) in enumerate(variants.items()):
        found[kind] = opened(write_zip(tmp_path / f"{i}.zip", variant)).info.fingerprint
    assert len(set(found.values())) == 4
    assert found["same"] == opened(write_zip(tmp_path / "again.zip", files, zipfile.ZIP_DEFLATED)).info.fingerprint


@pytest.mark.parametrize("write", [write_folder, lambda folder, files: write_zip(folder.with_suffix(".zip"), files)])
@pytest.mark.parametrize("count", [3, 40])
def test_the_fingerprint_sees_bytes_where_names_and_sizes_are_equal(
    tmp_path: Path, write: Callable[[Path, Files], Path], count: int
) -> None:
    """Latents have equal sizes and names, whichever VAE made them."""
    latents = {f"{i:02}.npy": npy(LATENT) for i in range(count)}
    last = max(latents)
    changed = {**latents, last: latents[last][:-1] + b"\0"}
    found = [opened(write(tmp_path / str(i), files)).info.fingerprint for i, files in enumerate((latents, changed))]
    assert {len(data) for data in changed.values()} == {len(latents[last])}
    assert found[0] != found[1]
    assert found[0] == opened(write(tmp_path / "again", latents)).info.fingerprint


TILE = encoded(tiles(1, SIZE)[0])
LATENT = np.ones((8, 4, 4), np.float32)
BROKEN_FILES: dict[str, tuple[Files, str]] = {
    "empty": ({}, r"holds no pictures: no file ends in one of \.png"),
    "only text": ({"a.txt": b"x"}, "holds no pictures"),
    "not a picture": ({"a.png": b"hello"}, r"a\.png in dataset .* cannot be read: it is neither PNG nor JPEG"),
    "empty file": ({"a.png": b""}, r"a\.png in dataset .* cannot be read: it is neither PNG nor JPEG"),
    "truncated": ({"a.png": TILE, "b.png": TILE[: len(TILE) // 2]}, r"b\.png in dataset .* cannot be read"),
    "sizes": (
        {"a.png": TILE, "b.png": encoded(tiles(1, 8)[0])},
        r"b\.png .* it is 8x8 RGB, while the dataset's first picture is 16x16 RGB; all must be alike",
    ),
    "channels": ({"a.png": TILE, "b.png": encoded(tiles(1, SIZE)[0][..., 0])}, r"b\.png .* it is 16x16 grey, while"),
    "not square": ({"a.png": encoded(photograph("coffee")[:16, :24])}, r"a\.png .* 24 x 16, not square; `phema"),
    "alpha": ({"a.png": encoded(np.zeros((16, 16, 4), np.uint8))}, r"its pixels are RGBA; grey and RGB of 8 bits"),
    "16 bits": ({"a.png": encoded(np.zeros((16, 16), np.uint16))}, r"its pixels are I;16"),
    "other kind": ({"a.png": TILE, "b.webp": b"x"}, r"b\.webp in dataset .* is of no kind that is read"),
    "mixed": ({"a.png": TILE, "b.npy": npy(LATENT)}, r"mixes pictures \(a\.png\) and arrays \(b\.npy\)"),
    "bare beside classes": ({"cat/a.png": TILE, "b.png": TILE}, r"b\.png in dataset .* has no label: it lies beside"),
    "label missing": (
        {"a.png": TILE, "b.png": TILE, "dataset.json": labelled(["a.png"], [0])},
        r"b\.png in dataset .* has no label: dataset\.json does not name it",
    ),
    "absent file": (
        {"a.png": TILE, "dataset.json": labelled(["a.png", "z.png"], [0, 1])},
        r"dataset\.json in dataset .* names z\.png, which is not there",
    ),
    "twice": ({"a.png": TILE, "dataset.json": labelled(["a.png", "a.png"], [0, 1])}, r"names a\.png twice"),
    "negative label": ({"a.png": TILE, "dataset.json": labelled(["a.png"], [-1])}, r"label of a\.png .* is -1; it"),
    "huge label": ({"a.png": TILE, "dataset.json": labelled(["a.png"], [2**31])}, r"is 2147483648; it must be from 0"),
    "text label": ({"a.png": TILE, "dataset.json": labelled(["a.png"], ["cat"])}, r'lists \["a\.png", "cat"\], which'),
    "true label": ({"a.png": TILE, "dataset.json": labelled(["a.png"], [True])}, r"which is no \[name, label\]"),
    "no JSON": ({"a.png": TILE, "dataset.json": b"{"}, r"dataset\.json in dataset .* it is no valid JSON"),
    "deep JSON": ({"a.png": TILE, "dataset.json": b"[" * 10**6}, r"it is no valid JSON"),
    "no labels": ({"a.png": TILE, "dataset.json": b"{}"}, r'must be an object with "labels"'),
    "too few names": (
        {"a.png": TILE, "dataset.json": b'{"labels": [["a.png", 1]], "classes": ["cat"]}'},
        r'"classes" of .* must list the name of each of the 2 classes',
    ),
    "labels by name": ({"a.png": TILE, "dataset.json": b'{"labels": {"a": 1}}'}, r'"labels" .* must be a list'),
    "json below": ({"x/a.png": TILE, "x/dataset.json": b"{}"}, r"x/dataset\.json .* must lie at the top"),
    "latent shape": ({"a.npy": npy(LATENT[:4])}, r"it holds float32 \[4, 4, 4\]; latents are float32 \[8, h, h\]"),
    "latent dtype": ({"a.npy": npy(LATENT.astype(np.float64))}, r"it holds float64 \[8, 4, 4\]"),
    "latent sizes": ({"a.npy": npy(LATENT), "b.npy": npy(np.ones((8, 2, 2), np.float32))}, r"b\.npy .* it is 2x2"),
    "latent NaN": ({"a.npy": npy(LATENT * np.nan)}, r"a\.npy .* values that are not finite"),
    "latent std": ({"a.npy": npy(-LATENT)}, r"a\.npy .* standard deviations and must not be negative"),
    "short array": ({"a.npy": npy(LATENT)[:-4]}, r"a\.npy .* holds 508 bytes of values, but its header announces 512"),
    "no array": ({"a.npy": b"hello"}, r"a\.npy .* it is no NPY file"),
    "pickle": ({"a.npy": npy(np.array([object], dtype=object))}, r"a\.npy .* must be plain numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "sentence"), BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_broken_files_are_named(tmp_path: Path, kind: str, files: Files, sentence: str) -> None:
    path = write_folder(tmp_path / "x", files) if kind == "folder" else write_zip(tmp_path / "x.zip", files)
    with pytest.raises(DatasetError, match=sentence) as caught:
        opened(path).verify()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_picture_of_absurd_size_is_not_decoded(tmp_path: Path) -> None:
    """Its header promises 16 gigapixels; nothing of that size may be allocated."""
    header = struct.pack(">IIBBBBB", 2**17, 2**17, 8, 2, 0, 0, 0)
    bomb = TILE[:16] + header + TILE[16 + len(header) :]
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = bomb[: 16 + len(header)] + crc + bomb[20 + len(header) :]
    dataset = opened(write_folder(tmp_path, {"a.png": TILE, "b.png": bomb}))
    with pytest.raises(DatasetError, match=r"b\.png .* cannot be read: .*(exceeds limit|131072x131072)"):
        dataset.verify()


def test_large_pictures_are_refused(tmp_path: Path) -> None:
    large = encoded(np.zeros((4097, 4097), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png .* it has 4097 pixels a side; at most 4096 are allowed"):
        opened(write_folder(tmp_path, {"a.png": large}))


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none does not exist on this machine: it must be a folder or a zip file"):
        opened(tmp_path / "none")


def damaged(path: Path, change: Callable[[bytearray], bytearray]) -> Path:
    path.write_bytes(change(bytearray(path.read_bytes())))
    return path


def test_zips_that_are_none_are_named(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "x.zip", photo_files(4, SIZE)[0])
    for change in (lambda b: b[:-30], lambda b: b[: len(b) // 2], lambda b: bytearray(b"hello"), lambda b: bytearray()):
        path = tmp_path / "broken.zip"
        path.write_bytes(change(bytearray(whole.read_bytes())))
        with pytest.raises(DatasetError, match=r"broken\.zip is no readable zip file"):
            opened(path)


def test_damaged_bytes_are_noticed(tmp_path: Path) -> None:
    """Of an array nobody could tell without the zip's CRC."""
    path = write_zip(tmp_path / "x.zip", {"a.npy": npy(LATENT)})

    def flip(data: bytearray) -> bytearray:
        data[data.index(LATENT.tobytes()) + 100] ^= 1
        return data

    with pytest.raises(DatasetError, match=r"a\.npy .* its bytes are not those that the zip's directory describes"):
        opened(damaged(path, flip))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """The directory says 100,000 bytes, the stream would unpack to 64 MiB: it is stopped one byte later."""
    path = write_zip(tmp_path / "x.zip", {"a.png": bytes(2**26)}, zipfile.ZIP_DEFLATED)

    def lie(data: bytearray) -> bytearray:
        entry = data.rindex(b"PK\1\2")
        data[entry + 24 : entry + 28] = struct.pack("<I", 10**5)
        return data

    with pytest.raises(DatasetError, match=r"a\.png .* its bytes are not those"):
        opened(damaged(path, lie))
    with pytest.raises(DatasetError, match=r"a\.png .* it has 268435457 bytes; at most 268435456 are allowed"):
        opened(damaged(path, lambda data: _announce(data, 2**28 + 1)))


def _announce(data: bytearray, size: int) -> bytearray:
    entry = data.rindex(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    return data


def test_odd_zips(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", TILE)
    with pytest.raises(DatasetError, match=r"a\.png .* has compression 12; only stored and deflated files are read"):
        opened(tmp_path / "x.zip")
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.png", TILE)
        archive.writestr("a.png", TILE)
    with pytest.raises(DatasetError, match=r"holds a\.png twice"):
        opened(tmp_path / "y.zip")


def test_zips_as_others_write_them(tmp_path: Path) -> None:
    """Long extra fields in local headers, zip64 records, names beyond ASCII, folders and macOS's additions."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.mkdir("gatos")
        for name in ("gatos/niño.png", "perros/b.png", "__MACOSX/gatos/._niño.png", "perros/.DS_Store"):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
                file.write(TILE)
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        info = zipfile.ZipInfo("perros/c.png")
        info.extra = struct.pack("<HH", 0x7075, 200) + bytes(200)
        archive.writestr(info, TILE)
    dataset = opened(tmp_path / "x.zip")
    assert np.bincount(dataset.train.labels).tolist() == [1, 2]
    dataset.verify()


def test_names_that_climb_are_only_names(tmp_path: Path) -> None:
    """Nothing is extracted, so a path in a zip leads nowhere."""
    path = write_zip(tmp_path / "x.zip", {"/cat/a.png": TILE, "/dog/../../b.png": TILE, "cat/c.png": TILE})
    before = sorted(tmp_path.rglob("*"))
    everything(opened(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"a.png": TILE})
    (tmp_path / "set" / "dog").mkdir(parents=True)
    (tmp_path / "set" / "dog" / "b.png").write_bytes(TILE)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "dog" / "round").symlink_to(tmp_path / "set")
    assert np.bincount(opened(tmp_path / "set").train.labels).tolist() == [1, 1]


def test_a_picture_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "set", {"a.png": TILE, "b.png": TILE})
    dataset = opened(path)
    (path / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"b\.png in dataset .* cannot be read: No such file"):
        everything(dataset)


def test_labels_in_the_documented_form(tmp_path: Path) -> None:
    document = {"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9]]}
    files = {
        "00000/img00000000.png": TILE,
        "00000/img00000001.png": TILE,
        "dataset.json": json.dumps(document).encode(),
    }
    dataset = opened(write_zip(tmp_path / "x.zip", files))
    assert dataset.num_classes == 10
    assert sorted(dataset.train.labels.tolist()) == [6, 9]


def test_a_folder_that_may_not_be_entered_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "closed" / "data").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may enter every folder
    try:
        with pytest.raises(DatasetError, match="data cannot be read on this machine: Permission denied"):
            open_files(str(tmp_path / "closed" / "data"))
    finally:
        os.seteuid(user)
        (tmp_path / "closed").chmod(0o700)
    with pytest.raises(DatasetError, match="cannot be read on this machine: File name too long"):
        open_files(f"/{'x' * 300}/data")
