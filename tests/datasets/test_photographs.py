"""Pictures as cameras, browsers and scanners leave them: formats, orientation, depth; and what cannot be read."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from phema.shared.datasets import DatasetError, open_files
from phema.shared.datasets.decoding import Unreadable
from phema.shared.datasets.errors import PicturesRefused
from phema.shared.datasets.preparation.conversion import ConversionOptions, convert
from phema.shared.datasets.preparation.photographs import open_photograph
from phema.shared.datasets.preparation.transforms import TRANSFORMS
from tests.datasets.photos import encoded, labelled, photograph, write_folder, write_zip

PICTURE = photograph("coffee")[:60, :80]


def opened(data: bytes, **options: bool) -> NDArray[np.uint8]:
    return np.asarray(open_photograph(data, **options))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "TGA", "WEBP", "AVIF", "JPEG2000", "JPEG", "GIF"])
def test_every_format_gives_the_pixels_that_were_stored(kind: str) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(
        kind, {}
    )
    found = opened(encoded(PICTURE, kind, **options))
    difference = np.abs(found.astype(int) - PICTURE)
    assert found.shape == PICTURE.shape
    assert difference.mean() <= {"JPEG": 6, "GIF": 8, "AVIF": 3}.get(kind, 0)


def test_the_first_picture_of_an_animation_is_taken() -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (40, 200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert set(opened(file.getvalue()).flat) == {40}


TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}
"""How a camera that was held in this orientation stores an upright picture."""


@pytest.mark.parametrize("orientation", TURNS)
def test_photographs_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](PICTURE))
    data = encoded(stored, "PNG", exif=exif)
    np.testing.assert_array_equal(opened(data), PICTURE)
    np.testing.assert_array_equal(opened(data, upright=False), stored)


def test_sixteen_bits_are_rounded_to_eight() -> None:
    deep = (np.arange(65536, dtype=np.uint32) * 257 % 65536).astype(np.uint16).reshape(256, 256)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(opened(encoded(deep, kind)), (deep / 257).round().astype(np.uint8))
    with pytest.raises(Unreadable, match="its pixels are floating-point numbers"):
        open_photograph(encoded(np.zeros((4, 4), np.float32), "TIFF"))  # type: ignore[arg-type]


def blocks(*colours: int, size: tuple[int, int]) -> Image.Image:
    """Vertical stripes of equal width."""
    width, height = size
    row = np.repeat(np.array(colours, np.uint8), width // len(colours))
    return Image.fromarray(np.broadcast_to(row, (height, width)).copy())


def transformed(name: str, picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(TRANSFORMS[name](picture, size))


def test_transforms_keep_the_part_that_they_name() -> None:
    """Eight stripes of 16 pixels, 64 high: the centre has the stripes 3 to 6, a part of 2:1 has all of them."""
    picture = blocks(10, 20, 30, 40, 50, 60, 70, 80, size=(128, 64))
    at = [4, 12, 20, 28]  # centres of the stripes of a square of 32 pixels that shows four
    assert transformed("center-crop", picture, (32, 32))[16, at].tolist() == [30, 40, 50, 60]
    assert transformed("adm", picture, (32, 32))[16, at].tolist() == [30, 40, 50, 60]
    assert transformed("scale", picture, (32, 32))[16, 2::4].tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    wide = transformed("center-crop-wide", picture, (32, 16))
    assert wide.shape == (32, 32)
    assert wide[16, 2::4].tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert not wide[:8].any()
    assert not wide[24:].any()
    assert wide[8:24].all()
    higher = Image.fromarray(np.asarray(picture).T.copy())  # of this, a part of 2:1 is 64 wide and 32 high
    assert transformed("center-crop-wide", higher, (32, 16))[[9, 12, 19, 22], 5].tolist() == [40, 40, 50, 50]
    with pytest.raises(DatasetError, match="resolution is 32x16, and adm makes squares; give one number, or use"):
        ConversionOptions((32, 16)).check()
    with pytest.raises(DatasetError, match="resolution is 32x32, and center-crop-wide needs one that is wider"):
        ConversionOptions((32, 32), "center-crop-wide").check()


def test_lanczos_has_three_lobes() -> None:
    """A step, halved: the weights are those of the kernel sinc(x) sinc(x / 3), stretched twofold."""
    step = Image.fromarray(np.repeat([[50] * 16 + [200] * 16], 32, 0).astype(np.uint8))
    x = np.abs(np.arange(32)[None] + 0.5 - 2 * (np.arange(16)[:, None] + 0.5)) / 2
    kernel = np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)
    exact = (kernel / kernel.sum(1, keepdims=True)) @ np.asarray(step)[0].astype(float)
    for name in ("center-crop", "scale"):
        np.testing.assert_allclose(transformed(name, step, (16, 16))[8], exact, atol=1)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two good pictures of each of two classes; one that is cut off, one that is none, one of an unknown format."""
    good = {
        f"{name}/{i}.jpg": encoded(photograph(name)[:40, :40], "JPEG") for name in ("coffee", "rocket") for i in "12"
    }
    broken = {
        "coffee/cut.png": encoded(PICTURE)[:200],
        "rocket/text.webp": b"no picture",
        "rocket/phone.heic": b"\0" * 100,
        "notes.txt": b"not counted",
    }
    return write_folder(tmp_path / "photos", good | broken)


def test_all_refusals_are_listed_at_once(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(PicturesRefused, match=r"3 of 7 pictures in dataset .*photos cannot be converted") as caught:
        convert(open_files(str(mixed)), tmp_path / "p.zip", ConversionOptions((16, 16)))
    assert [name for name, _ in caught.value.refused] == ["coffee/cut.png", "rocket/phone.heic", "rocket/text.webp"]
    assert all(f"{name}: {why}" in str(caught.value) for name, why in caught.value.refused)
    assert not (tmp_path / "p.zip").exists()
    done = convert(open_files(str(mixed)), tmp_path / "p.zip", ConversionOptions((16, 16), skip_bad=True))
    assert (done.num_pictures, done.classes, done.skipped) == (4, ("coffee", "rocket"), caught.value.refused)
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        listed = json.loads(archive.read("dataset.json"))["labels"]
    assert listed == [[f"00000/img{i:08d}.png", label] for i, label in enumerate([0, 0, 1, 1])]


def test_some_of_the_pictures_are_spread_over_all(tmp_path: Path) -> None:
    tile = encoded(PICTURE)
    source = write_folder(tmp_path / "many", {f"{'ab'[i // 20]}/{i:02d}.png": tile for i in range(40)})
    done = convert(open_files(str(source)), tmp_path / "few.zip", ConversionOptions((8, 8), max_images=4))
    assert (done.num_pictures, done.num_classes) == (4, 2)
    with pytest.raises(DatasetError, match=r"no picture of class b in dataset .* raise --max-images"):
        convert(open_files(str(source)), tmp_path / "one.zip", ConversionOptions((8, 8), max_images=1))
    assert not (tmp_path / "one.zip").exists()


def test_a_class_that_loses_every_picture_is_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", {"a/1.png": encoded(PICTURE), "b/1.png": b""})
    with pytest.raises(DatasetError, match=r"no picture of class b in dataset .* would be written"):
        convert(open_files(str(source)), tmp_path / "y.zip", ConversionOptions((8, 8), skip_bad=True))


def test_label_vectors_are_kept(tmp_path: Path) -> None:
    files = {"a.png": encoded(PICTURE), "b.png": encoded(PICTURE)}
    source = write_zip(tmp_path / "x.zip", {**files, "dataset.json": labelled(list(files), [[0.5, -1.0], [0.25, 2.0]])})
    convert(open_files(str(source)), tmp_path / "y.zip", ConversionOptions((8, 8)))
    with zipfile.ZipFile(tmp_path / "y.zip") as archive:
        listed = json.loads(archive.read("dataset.json"))["labels"]
    assert [label for _, label in listed] == [[0.5, -1.0], [0.25, 2.0]]
