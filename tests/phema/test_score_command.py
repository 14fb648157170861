"""`phema score`, run as the command runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phema.shared.datasets.digits import load_digits
from phema.shared.metrics.moments import Moments
from tests.datasets.photos import encoded, photo_files, write_folder, write_zip

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """A zip of the first 100 digits, with noise."""
    images = load_digits(held_out=0).train.batch(np.arange(100))[0][:, 0]
    noisy = images + 0.2 * np.random.default_rng(0).standard_normal(images.shape)
    pixels = np.clip(noisy * 127.5 + 128, 0, 255).astype(np.uint8)
    return str(write_zip(tmp_path / "d.zip", {f"{i:03d}.png": encoded(picture) for i, picture in enumerate(pixels)}))


def test_a_zip_against_the_built_in_digits(cli: Cli, digits: str) -> None:
    names = "frechet,kernel,precision_recall"
    code, out, err = cli("score", digits, "--reference", "digits", "--metrics", names, "--device", "cpu", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["figures"]) == ["frechet", "kernel", "precision", "recall"]
    assert found["figures"]["frechet"]["standard_error"] > 0
    assert (found["num_pictures"], found["provenance"]["references"]["random"]["num_pictures"]) == (100, 1797)
    assert "scoring: 100%" in err
    assert not Path(".phema").exists(), "a command without a service leaves no store behind"


def test_a_table_for_people(cli: Cli, digits: str) -> None:
    code, out, _ = cli("score", digits, "--reference", "digits", "--metrics", "frechet", "--held-out", "297")
    assert code == 0
    header, row = out.splitlines()
    assert header.split() == ["figure", "value", "error", "better"]
    assert row.split()[0] == "frechet"
    assert row.split()[3] == "lower"
    assert 0 < float(row.split()[2]) < float(row.split()[1])


def test_a_folder_against_a_dataset_and_its_statistics(cli: Cli, tmp_path: Path) -> None:
    files, _ = photo_files(30, 16)
    reference = str(write_zip(tmp_path / "photos.zip", files))
    drawn = str(write_folder(tmp_path / "drawn", dict(list(files.items())[:12])))
    assert cli("dataset", "stats", reference, str(tmp_path / "s.npz"), "--device", "cpu")[0] == 0
    found = []
    for against in (reference, str(tmp_path / "s.npz")):
        code, out, err = cli("score", drawn, "--reference", against, "--json", "--device", "cpu")
        assert code == 0, err
        found.append(json.loads(out))
    assert found[0]["figures"] == found[1]["figures"]
    assert list(found[0]["figures"]) == ["frechet"]
    assert found[0]["provenance"]["references"] == found[1]["provenance"]["references"]


def test_published_statistics(cli: Cli, digits: str, tmp_path: Path) -> None:
    moments = Moments(64).add(np.random.default_rng(0).standard_normal((500, 64)))
    np.savez(tmp_path / "published.npz", mu=moments.mean, sigma=moments.cov)
    reference = str(tmp_path / "published.npz")
    code, out, err = cli("score", digits, "--reference", reference, "--metrics", "frechet", "--json")
    assert code == 0, err
    assert json.loads(out)["provenance"]["references"]["random"]["extractor"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.zip", "--reference", "digits"), "dataset none.zip does not exist on this machine"),
        (("d.zip", "--reference", "none"), "dataset none does not exist on this machine"),
        (("d.zip", "--reference", "none.npz"), "statistics none.npz cannot be read: No such file or directory"),
        (("d.zip", "--reference", "digits", "--metrics", "fidd"), "metrics names 'fidd'; allowed are frechet_digits, "),
        (("d.zip", "--reference", "digits", "--metrics", ","), "metrics is empty; name at least one of frechet_digits"),
        (
            ("d.zip", "--reference", "digits", "--metrics", "fid"),
            "num_samples is 100, but metric fid needs at least 2049",
        ),
        (
            ("d.zip", "--reference", "digits", "--metrics", "kid", "--weights", "nowhere"),
            "extractor inception finds no weights: nowhere does not exist; it must be the file weights-inception-",
        ),
        (("d.zip",), "Missing option '--reference'"),
    ],
)
def test_mistakes_are_one_sentence(cli: Cli, digits: str, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = cli("score", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
