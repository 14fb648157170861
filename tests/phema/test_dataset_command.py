"""`phema dataset`, run as the command runs it, on real photographs and a small VAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phema.command.main import run
from phema.shared.datasets import DatasetError, open_dataset, open_files
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.datasets.preparation.vae import Vae
from phema.shared.datasets.stored_pictures import PictureReader
from phema.shared.metrics import reference_statistics as statistics
from phema.shared.metrics.feature_extraction import load_extractor
from phema.shared.metrics.networks.random_convolutions import RandomConvFeatures
from phema.shared.recipes.run_config import DatasetConfig
from tests.datasets.photos import encoded, npy, photo_files, photograph, write_folder, write_zip


@pytest.fixture
def phema(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def document(outcome: tuple[int, str, str]) -> Any:
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


def test_from_photographs_to_latents_and_statistics(phema: Any, tmp_path: Path) -> None:
    declare_missing_operators()
    from diffusers import AutoencoderKL

    pictures = {
        f"{name}/{i}.png": encoded(photograph(name)[i * 70 : i * 70 + 64, :80])
        for i in range(3)
        for name in ("coffee", "rocket")
    }
    source = write_folder(tmp_path / "photos", pictures)
    converted = document(phema("dataset", "convert", source, tmp_path / "p.zip", "--resolution", 16, "--json"))
    assert (converted["num_pictures"], converted["num_classes"], converted["classes"]) == (6, 2, ["coffee", "rocket"])
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "vae")
    options = ("--vae", tmp_path / "vae", "--device", "cpu", "--json")
    latents = document(phema("dataset", "encode", tmp_path / "p.zip", tmp_path / "l.zip", *options))
    assert (latents["num_pictures"], latents["shape"]) == (6, [8, 16, 16])
    shown = document(phema("dataset", "show", tmp_path / "l.zip", "--verify", "--json"))
    assert (shown["encoding"], shown["channels"], shown["pictures_per_class"]) == ("latents", 4, [3, 3])
    back = document(phema("dataset", "decode", tmp_path / "l.zip", tmp_path / "back.zip", *options))
    assert (back["num_pictures"], back["resolution"]) == (6, 16)
    seen = document(phema("dataset", "show", tmp_path / "back.zip", "--verify", "--json"))
    assert (seen["channels"], seen["resolution"], seen["classes"]) == (3, 16, ["coffee", "rocket"])
    decoded, decoder = PictureReader(open_files(str(tmp_path / "back.zip"))), Vae(str(tmp_path / "vae"))
    mean = PictureReader(open_files(str(tmp_path / "l.zip"))).read(4)[:4].copy()
    plain = decoder._model.decode(torch.from_numpy(mean[None])).sample[0].clamp(0, 1) * 255
    np.testing.assert_allclose(decoded.read(4), plain.numpy(), atol=0.6)
    written = document(phema("dataset", "stats", tmp_path / "l.zip", "--device", "cpu", "--json"))
    assert (written["path"], written["num_pictures"]) == (str(tmp_path / "l.zip.stats.npz"), 6)
    assert written["fingerprint"] == shown["fingerprint"]


def test_show_for_people(phema: Any, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", photo_files(10, 16)[0])
    code, out, _ = phema("dataset", "show", path)
    assert code == 0
    assert "10 (" in out
    assert "16x16 RGB" in out
    assert "4 of 2 to 3 pictures (0: 3, 1: 3, 2: 2, 3: 2)" in out


def test_progress_goes_to_stderr(phema: Any, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", photo_files(10, 16)[0])
    code, out, err = phema("dataset", "convert", path, tmp_path / "y", "--resolution", 8, "--threads", 1)
    assert (code, out) == (0, f"{tmp_path / 'y'}: 10 pictures\n")
    assert "converting: 100%, 10 of 10 pictures" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "none.zip"), "dataset none.zip does not exist on this machine"),
        (("stats", "s3://bucket/x.zip"), "DEST is needed: statistics cannot lie beside s3://bucket/x.zip"),
        (("encode", "x.zip", "y.zip", "--vae", "/none"), "VAE /none is neither a folder on this machine nor an id"),
        (("convert", "x.zip", "x.zip", "--resolution", "8"), "x.zip already exists; choose another name"),
        (("convert", "x.zip", "y.zip"), "Missing option '--resolution'"),
        (("convert", "x.zip", "y.zip", "--resolution", "8k"), "--resolution '8k' must be a number of pixels, such as"),
        (("decode", "x.zip", "y.zip", "--vae", "/none"), "VAE /none is neither a folder on this machine nor an id"),
    ],
)
def test_mistakes_are_one_sentence(
    phema: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "x.zip", photo_files(4, 16)[0])
    code, out, err = phema("dataset", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_statistics_are_the_moments_and_features(phema: Any, tmp_path: Path) -> None:
    files, pictures = photo_files(12, 16)
    path = write_zip(tmp_path / "x.zip", files)
    written = document(phema("dataset", "stats", path, tmp_path / "s.npz", "--device", "cpu", "--json"))
    assert (written["extractor"]["name"], written["num_pictures"], written["held_out"]) == ("random", 12, 0)
    images = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    features = RandomConvFeatures(3, 16)(images).double().numpy()
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert found["mean"].dtype == found["scatter"].dtype == np.float64
        np.testing.assert_allclose(found["mean"], features.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["scatter"] / 11, np.cov(features.T), rtol=1e-3, atol=1e-6)
        order = np.lexsort(found["features"].T)
        np.testing.assert_allclose(found["features"][order], features[np.lexsort(features.T)], rtol=1e-4, atol=1e-5)


def test_statistics_beside_a_dataset_are_used(phema: Any, tmp_path: Path) -> None:
    """Marked by a mean that nobody would measure; those of other pictures or another split are passed over."""
    files, _ = photo_files(12, 16)
    path = write_zip(tmp_path / "x.zip", files)
    choice = DatasetConfig(name="x", path=str(path), held_out=2)
    dataset = open_dataset(choice)
    extractor = load_extractor("random", dataset=dataset)
    measured = statistics.reference_of(dataset, extractor, path=str(path)).moments
    file = statistics.statistics_path(str(path), "random")
    for held_out, taken in ((0, False), (2, True)):
        document(phema("dataset", "stats", path, "--held-out", held_out, "--device", "cpu", "--json"))
        stored = statistics.load(file)
        stored.moments._mean += 1.0
        statistics.save(stored, file)
        found = statistics.reference_of(dataset, extractor, path=str(path)).moments
        np.testing.assert_allclose(found.mean, measured.mean + taken, rtol=1e-12)
        np.testing.assert_allclose(found.cov, measured.cov, rtol=1e-12, atol=1e-12)
    write_zip(path, {name: data for name, data in files.items() if name != "dataset.json"})
    found = statistics.reference_of(open_dataset(choice), extractor, path=str(path)).moments
    assert abs(found.mean - measured.mean).max() < 0.5


def test_statistics_of_another_extractor_lie_in_a_file_of_their_own(phema: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = {f"{i}.png": encoded(random.integers(0, 256, (8, 8), dtype=np.uint8)) for i in range(6)}
    path = write_zip(tmp_path / "x.zip", files)
    written = document(phema("dataset", "stats", path, "--extractor", "digits", "--device", "cpu", "--json"))
    assert written["path"] == f"{path}.digits.stats.npz"
    assert statistics.load(Path(written["path"])).identity.document() == written["extractor"]  # type: ignore[union-attr]
    code, out, err = phema(
        "dataset", "stats", write_zip(tmp_path / "y.zip", photo_files(4, 16)[0]), "--extractor", "digits"
    )
    assert (code, out) == (2, "")
    assert "extractor digits takes grey pictures of 8x8, and these have 3 channels and 16 pixels a side" in err


def test_broken_statistics_are_named(tmp_path: Path) -> None:
    for data in (b"hello", npy(np.zeros(3)), b""):
        (tmp_path / "s.npz").write_bytes(data)
        with pytest.raises(DatasetError, match=r"statistics .*s\.npz cannot be read"):
            statistics.load(tmp_path / "s.npz")
