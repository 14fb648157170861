"""ADM's crop against values computed by hand, and the files that a conversion writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from phema.shared.datasets import DatasetError, open_dataset, open_files
from phema.shared.datasets.preparation.conversion import ConversionOptions, convert
from phema.shared.datasets.preparation.transforms import adm
from phema.shared.recipes.run_config import DatasetConfig
from tests.datasets.photos import PHOTOGRAPHS, encoded, labelled, photograph, write_folder, write_zip


def crop(picture: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    return np.asarray(adm(Image.fromarray(picture), (resolution, resolution)))


def halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Averages of two columns, then of two rows, each rounded half up to a level."""
    columns = (picture[:, 0::2].astype(np.int64) + picture[:, 1::2] + 1) // 2
    return ((columns[0::2] + columns[1::2] + 1) // 2).astype(np.uint8)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_powers_of_two_are_box_averages(halvings: int) -> None:
    """A short side of 2^k * resolution needs no interpolation."""
    picture = photograph("coffee")[:384, :600]
    resolution = 384 >> halvings
    expected = picture
    for _ in range(halvings):
        expected = halved(expected)
    left = (expected.shape[1] - resolution) // 2
    np.testing.assert_array_equal(crop(picture, resolution), expected[:, left : left + resolution])


def test_a_square_of_the_right_size_is_kept() -> None:
    picture = photograph("astronaut")
    np.testing.assert_array_equal(crop(picture, 512), picture)


def bicubic_weights(source: int, target: int) -> NDArray[np.float64]:
    """Rows of Keys' kernel with a = -1/2, widened when shrinking, normalised at the edges."""
    scale = source / target
    wide = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    x = np.abs((np.arange(source) + 0.5)[None] - centres[:, None]) / wide
    kernel = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0))
    return kernel / kernel.sum(1, keepdims=True)


def test_the_rest_is_bicubic() -> None:
    """300 x 451 to 64: two box halvings (75 x 112), then bicubic to 64 x 96, then 16 columns off either side."""
    picture = photograph("chelsea")
    # 451 columns are no multiple of two: each of the 225 averages a little more than two of them.
    small = np.asarray(Image.fromarray(picture).resize((225, 150), Image.Resampling.BOX))
    small = np.asarray(Image.fromarray(small).resize((112, 75), Image.Resampling.BOX))
    rows, columns = bicubic_weights(75, 64), bicubic_weights(112, 96)
    exact = np.einsum("rh,hwc,vw->rvc", rows, small.astype(np.float64), columns)[:, 16:80]
    np.testing.assert_allclose(crop(picture, 64), np.clip(exact, 0, 255), atol=1.51)


@pytest.mark.parametrize(("height", "width"), [(10, 13), (13, 10), (64, 67), (127, 128), (16, 16), (5, 400)])
def test_the_crop_is_central(height: int, width: int) -> None:
    """A ramp along the long side keeps the value of its middle, whatever was scaled."""
    long = max(height, width)
    ramp = np.linspace(0, 255, long)
    picture = np.broadcast_to(ramp[None] if width > height else ramp[:, None], (height, width)).round().astype(np.uint8)
    found = crop(picture, 8)
    assert found.shape == (8, 8)
    scaled_side = round(long * 8 / min(height, width))
    tolerance = 255 / scaled_side + 2 if height != width else 3  # half a pixel where an odd number is left over
    assert abs(found.astype(np.float64).mean() - 127.5) < tolerance


def files_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Class folders of photographs: RGB PNG, JPEG, grey, and with transparency."""
    pictures = {name: photograph(name)[:96, :128] for name in PHOTOGRAPHS}
    alpha = np.dstack([pictures["coffee"], np.full((96, 128), 7, np.uint8)])
    return write_folder(
        tmp_path / "photos",
        {
            "cat/chelsea.png": encoded(pictures["chelsea"]),
            "person/astronaut.jpg": encoded(pictures["astronaut"], "JPEG"),
            "person/camera.png": encoded(photograph("camera")[:100, :80]),
            "thing/coffee.png": encoded(alpha),
            "thing/rocket.jpeg": encoded(pictures["rocket"], "JPEG"),
        },
    )


def test_a_converted_dataset_opens(photographs: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "new" / "set.zip"
    done = convert(open_files(str(photographs)), path, ConversionOptions((32, 32)), lambda *at: seen.append(at))
    assert (done.num_pictures, done.num_classes, done.classes) == (5, 3, ("cat", "person", "thing"))
    assert seen == [(i, 5) for i in range(6)]
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    files = files_of(path)
    names = [f"00000/img{i:08d}.png" for i in range(5)]
    assert list(files) == [*names, "dataset.json"]
    assert json.loads(files["dataset.json"]) == {
        "labels": [list(pair) for pair in zip(names, [0, 1, 1, 2, 2], strict=True)],
        "classes": ["cat", "person", "thing"],
    }
    dataset = open_dataset(DatasetConfig(name="photos", path=str(path), held_out=0))
    dataset.verify()
    assert dataset.info.class_names == ("cat", "person", "thing")
    images, _ = dataset.train.batch(np.arange(5))
    coffee = crop(photograph("coffee")[:96, :128], 32).transpose(2, 0, 1) / 127.5 - 1
    assert min(np.abs(image - coffee).max() for image in images) < 1e-6  # transparency is dropped, colours are kept


def test_the_same_source_gives_the_same_bytes(photographs: Path, tmp_path: Path) -> None:
    files = open_files(str(photographs))
    for name, threads in (("a.zip", 1), ("b.zip", 4)):
        convert(files, tmp_path / name, ConversionOptions((16, 16), threads=threads))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    convert(files, tmp_path / "folder", ConversionOptions((16, 16)))
    in_folder = {str(p.relative_to(tmp_path / "folder")): p.read_bytes() for p in (tmp_path / "folder").rglob("*.*")}
    assert in_folder == files_of(tmp_path / "a.zip")


def test_labels_of_dataset_json_are_kept(tmp_path: Path) -> None:
    tile = encoded(photograph("astronaut")[:20, :20])
    source = write_zip(
        tmp_path / "x.zip", {"b.png": tile, "a.png": tile, "dataset.json": labelled(["b.png", "a.png"], [7, 3])}
    )
    convert(open_files(str(source)), tmp_path / "y.zip", ConversionOptions((8, 8), grey=True))
    dataset = open_dataset(DatasetConfig(name="y", path=str(tmp_path / "y.zip"), held_out=0))
    assert (dataset.channels, dataset.num_classes, sorted(dataset.train.labels.tolist())) == (1, 8, [3, 7])


def test_mistakes_leave_nothing(photographs: Path, tmp_path: Path) -> None:
    (photographs / "thing" / "zebra.png").write_bytes(b"no picture")
    destination = tmp_path / "out" / "set.zip"
    with pytest.raises(
        DatasetError, match=r"1 of 6 pictures in dataset .* --skip-bad: thing/zebra\.png: it is no picture of a format"
    ):
        convert(open_files(str(photographs)), destination, ConversionOptions((16, 16)))
    assert list(destination.parent.iterdir()) == []
    destination.write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"set\.zip already exists; choose another name, or remove it first"):
        convert(open_files(str(photographs)), destination, ConversionOptions((16, 16)))
    assert destination.read_bytes() == b"mine"
    with pytest.raises(DatasetError, match="resolution is 0; it must be from 1 to 4096"):
        convert(open_files(str(photographs)), tmp_path / "z.zip", ConversionOptions((0, 0)))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"z\.zip cannot be written: "):
        convert(open_files(str(photographs)), tmp_path / "file" / "z.zip", ConversionOptions((16, 16)))


@pytest.mark.parametrize("destination", ["set.zip", "set"])
def test_a_killed_conversion_leaves_no_file_under_its_name(photographs: Path, tmp_path: Path, destination: str) -> None:
    """Killed when three of five pictures are written."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from phema.shared.datasets import open_files\n"
        "from phema.shared.datasets.preparation.conversion import ConversionOptions, convert\n"
        "def progress(done, total):\n"
        "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert(open_files(sys.argv[1]), Path(sys.argv[2]), ConversionOptions((16, 16)), progress)"
    )
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", code, str(photographs), str(out / destination)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / destination).exists()
    assert [name.endswith(".partial") for name in os.listdir(out)] == [True]
    convert(open_files(str(photographs)), out / destination, ConversionOptions((16, 16)))
    assert (out / destination).exists()
