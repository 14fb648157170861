"""Pictures in files are scored as an evaluation scores them, and what does not fit is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phema.shared.datasets import Dataset, InMemory, open_files
from phema.shared.datasets.digits import load_digits
from phema.shared.datasets.stored_pictures import dataset_in_order
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.feature_extraction import load_extractor
from phema.shared.metrics.picture_scoring import score_pictures
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.reference_statistics import load, measure
from phema.shared.metrics.registry import METRICS
from phema.shared.metrics.scoring import score
from tests.datasets.photos import encoded, photo_files, write_zip
from tests.metrics.features import reference_from

DIGITS = load_digits(held_out=297)


def noisy_digits(count: int) -> np.ndarray:
    """uint8 [count, 8, 8]."""
    random = np.random.default_rng(0)
    images = DIGITS.train.batch(np.arange(count))[0][:, 0] + 0.2 * random.standard_normal((count, 8, 8))
    return np.clip(images * 127.5 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    files = {f"{i:04d}.png": encoded(picture) for i, picture in enumerate(noisy_digits(200))}
    return dataset_in_order(open_files(str(write_zip(tmp_path_factory.mktemp("x") / "drawn.zip", files))), "drawn.zip")


def test_pictures_are_scored_in_the_order_of_their_names(drawn: Dataset) -> None:
    steps: list[tuple[str, int, int]] = []
    found = score_pictures(drawn, DIGITS, None, progress=lambda *step: steps.append(step))
    pictures = torch.from_numpy(noisy_digits(200)[:, None] / np.float32(127.5) - np.float32(1))
    expected = {}
    for metric, name in (("frechet_digits", "digits"), ("frechet", "random")):
        extractor = load_extractor(name, dataset=DIGITS)
        expected |= score([metric], {name: extractor(pictures).numpy()}, {name: measure(DIGITS, extractor)})
    assert found.figures == expected
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert steps[-1] == ("scoring", 2 * (1500 + 200), 2 * (1500 + 200))
    assert found.provenance["num_samples"] == 200
    assert set(found.provenance["extractors"]) == set(found.provenance["references"]) == {"digits", "random"}


def test_every_metric_of_pictures_can_be_asked_for(drawn: Dataset) -> None:
    names = [name for name, metric in METRICS.items() if metric.extractor == "digits" and metric.groups == 1]
    found = score_pictures(drawn, DIGITS, names).figures
    assert list(found) == [figure.name for name in names for figure in METRICS[name].figures]
    assert all(value.standard_error for value in found.values())


def test_statistics_name_their_extractor(drawn: Dataset, tmp_path: Path) -> None:
    reference = measure(DIGITS, load_extractor("digits", dataset=DIGITS))
    found = score_pictures(drawn, reference, None)
    assert found.figures == score_pictures(drawn, DIGITS, ["frechet_digits"]).figures
    rows = np.random.default_rng(0).standard_normal((3000, 64))
    np.savez(tmp_path / "published.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    published = load(tmp_path / "published.npz")
    assert set(score_pictures(drawn, published, ["frechet"]).figures) == {"frechet"}
    with pytest.raises(ScoringError, match="the reference has 64 features, and does not say of which extractor"):
        score_pictures(drawn, published, None)


@pytest.mark.parametrize(
    ("against", "names", "words"),
    [
        (DIGITS, ["fidd"], "metrics names 'fidd'; allowed are frechet_digits, fid"),
        (DIGITS, ["held_out_loss"], "metrics names held_out_loss, which needs the network"),
        (DIGITS, ["fid"], "num_samples is 200, but metric fid needs at least 2049"),
        (load_digits(held_out=700), ["frechet_digits"], "dataset.held_out 700 leaves 1097; at most 597 are allowed"),
        ("photos", None, "reference photos.zip holds pictures of 16x16 with 3 channels, but the pictures to score are"),
        (
            reference_from(np.eye(64, dtype=np.float32), "random"),
            ["frechet_digits"],
            "the reference has 64 pictures, but metric frechet_digits needs at least 65",
        ),
        (
            reference_from(np.repeat(np.eye(64, dtype=np.float32), 2, axis=0), "random"),
            ["frechet_digits"],
            "the reference was made by extractor random, but the pictures would be scored by extractor digits with ",
        ),
        (
            reference_from(np.eye(32, dtype=np.float32)),
            ["frechet"],
            "the reference has 32 features, but metric frechet",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    drawn: Dataset, against: Any, names: list[str] | None, words: str, tmp_path: Path
) -> None:
    class Unread(InMemory):
        def batch(self, indices: Any, seeds: Any = None) -> Any:
            raise AssertionError("a picture was read")

    if against == "photos":
        files, _ = photo_files(4, 16)
        against = dataset_in_order(open_files(str(write_zip(tmp_path / "photos.zip", files))), "photos.zip")
    assert isinstance(against, (Dataset, Reference))
    images, labels = drawn.train.batch(np.arange(200))
    unread = Dataset(drawn.info, Unread(images, labels), drawn.held_out)
    with pytest.raises(ScoringError) as caught:
        score_pictures(unread, against, names)
    assert words in str(caught.value)
