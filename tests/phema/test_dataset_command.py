"""`phema dataset`, run as the command runs it, on real photographs and a small VAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phema.command.main import run
from phema.services.phema_worker import reference_moments as reference
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets import DatasetError, open_dataset
from phema.shared.metrics import reference_statistics as statistics
from phema.shared.metrics.random_features import RandomConvFeatures
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


def test_statistics_are_the_moments_of_the_features(phema: Any, tmp_path: Path) -> None:
    files, pictures = photo_files(12, 16)
    path = write_zip(tmp_path / "x.zip", files)
    document(phema("dataset", "stats", path, tmp_path / "s.npz", "--device", "cpu", "--json"))
    import torch

    images = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    features = RandomConvFeatures(3, 16)(images).double().numpy()
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert (str(found["feature_space"]), int(found["count"])) == ("random-conv-64", 12)
        assert found["mean"].dtype == found["cov"].dtype == np.float64
        np.testing.assert_allclose(found["mean"], features.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["cov"], np.cov(features.T), rtol=1e-3, atol=1e-6)


def test_workers_take_the_statistics_beside_a_dataset(
    phema: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marked by a count that nobody would measure; those of other pictures or another split are passed over."""
    files, _ = photo_files(12, 16)
    path = write_zip(tmp_path / "x.zip", files)
    dataset = open_dataset(DatasetConfig(name="x", path=str(path), held_out=2))
    measured = reference.reference_moments(dataset, str(path), TaskProgress())
    for held_out, taken in ((0, False), (2, True)):
        monkeypatch.setattr(reference, "_cache", {})
        document(phema("dataset", "stats", path, "--held-out", held_out, "--json"))
        stored = statistics.load(statistics.statistics_path(str(path)))
        stored.moments._mean += 1.0
        statistics.save(stored, statistics.statistics_path(str(path)))
        found = reference.reference_moments(dataset, str(path), TaskProgress())
        np.testing.assert_allclose(found.mean, measured.mean + taken, rtol=1e-12)
        np.testing.assert_allclose(found.cov, measured.cov if not taken else stored.moments.cov, rtol=1e-12)
    write_zip(path, {name: data for name, data in files.items() if name != "dataset.json"})
    assert (
        statistics.load_matching(open_dataset(DatasetConfig(name="x", path=str(path), held_out=2)), str(path)) is None
    )


def test_broken_statistics_are_named(tmp_path: Path) -> None:
    for data in (b"hello", npy(np.zeros(3)), b""):
        (tmp_path / "s.npz").write_bytes(data)
        with pytest.raises(DatasetError, match=r"statistics .*s\.npz cannot be read"):
            statistics.load(tmp_path / "s.npz")
