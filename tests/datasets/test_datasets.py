"""The digits: real pictures, a fixed split, and clear errors if a network does not fit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from phema.shared.datasets import DATASETS, DatasetError, check_dataset, open_dataset
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.recipes.run_config import DatasetConfig


def network(**fields: object) -> NetworkConfig:
    base = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 16, "channel_mult": (1, 2)}
    return NetworkConfig.model_validate({**base, "attn_resolutions": (), "channels_per_head": 16, **fields})


def test_the_digits_are_all_there_and_in_range() -> None:
    dataset = open_dataset(DatasetConfig())
    assert (len(dataset.train), len(dataset.held_out)) == (1500, 297)
    assert (dataset.resolution, dataset.channels, dataset.num_classes) == (8, 1, 10)
    for pictures in (dataset.train, dataset.held_out):
        assert pictures.images.dtype == np.float32
        assert pictures.labels.dtype == np.int64
        assert pictures.images.min() == -1.0
        assert pictures.images.max() == 1.0
        assert set(pictures.labels) == set(range(10))


def test_held_out_pictures_are_not_trained_on() -> None:
    """The set has no duplicates, so equal bytes would be the same picture."""
    dataset = open_dataset(DatasetConfig())
    train = {image.tobytes() for image in dataset.train.images}
    held_out = {image.tobytes() for image in dataset.held_out.images}
    assert len(train | held_out) == 1797


def test_the_split_is_the_same_each_time_and_grows_without_moving() -> None:
    few, many = open_dataset(DatasetConfig(held_out=100)), open_dataset(DatasetConfig(held_out=300))
    np.testing.assert_array_equal(few.held_out.images, open_dataset(DatasetConfig(held_out=100)).held_out.images)
    np.testing.assert_array_equal(few.held_out.images, many.held_out.images[-100:])


def test_a_batch_is_a_copy() -> None:
    pictures = open_dataset(DatasetConfig()).train
    images, labels = pictures.batch(np.array([3, 1]))
    assert images.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(labels, pictures.labels[[3, 1]])
    images[:] = 9
    assert pictures.images.max() == 1.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"img_resolution": 16}, "network.img_resolution is 16, but the pictures of digits need 8"),
        ({"img_channels": 3}, "network.img_channels is 3, but the pictures of digits need 1"),
        ({"label_dim": 7}, "network.label_dim is 7, but digits has 10 classes; use 10, or 0"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        check_dataset(DatasetConfig(), network(**fields))


def test_a_network_that_fits_passes_with_or_without_classes() -> None:
    check_dataset(DatasetConfig(), network())
    check_dataset(DatasetConfig(), network(label_dim=0))


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_known_without_reading_is_true(name: str) -> None:
    info = DATASETS[name]
    dataset = open_dataset(DatasetConfig(name=name, held_out=10))
    shape = (info.channels, info.resolution, info.resolution)
    assert dataset.train.images.shape == (info.num_pictures - 10, *shape)
    assert dataset.held_out.images.shape == (10, *shape)
    labels = np.concatenate([dataset.train.labels, dataset.held_out.labels])
    assert set(labels) == set(range(info.num_classes))


def test_checking_reads_no_pictures() -> None:
    """The API checks every new run; scikit-learn and torch take seconds to import."""
    code = (
        "import sys; from phema.shared.datasets import check_dataset; from phema.shared.recipes.presets import resolve;"
        "run = resolve('digits-tiny'); check_dataset(run.dataset, run.network);"
        "print([m for m in ('sklearn', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_mistakes_are_named() -> None:
    with pytest.raises(DatasetError, match=r"dataset\.held_out is 1797, but digits has 1797 pictures"):
        open_dataset(DatasetConfig(held_out=1797))
    with pytest.raises(DatasetError, match=r"dataset\.name is letters, .*dataset\.path must name its folder"):
        open_dataset(DatasetConfig(name="letters"))
    with pytest.raises(DatasetError, match=r"dataset\.path is /data/x\.zip, but digits is built in"):
        check_dataset(DatasetConfig(path="/data/x.zip"), network())


@pytest.mark.parametrize("path", ["x.zip", "./x", "~/x", "http://host/x.zip", "file:///x.zip", "s3://", "s3:///"])
def test_paths_that_no_worker_could_open_are_refused_unread(path: str) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.path is .*; it must be an absolute path"):
        check_dataset(DatasetConfig(name="mine", path=path), network())


def test_files_are_not_read_by_the_check() -> None:
    """The API may run where the files are not."""
    check_dataset(DatasetConfig(name="mine", path="/nowhere/x.zip", held_out=0), network())
    check_dataset(DatasetConfig(name="mine", path="s3://bucket/prefix", held_out=0), network())


def test_the_digits_are_those_of_scikit_learn_read_without_importing_it() -> None:
    """Every start of a training would pay for the import."""
    code = """
import sys
from phema.shared.datasets.digits import load_digits
train = load_digits(held_out=0).train
assert "sklearn" not in sys.modules
import numpy as np
from sklearn.datasets import load_digits
bunch = load_digits()
order = np.random.RandomState(0).permutation(1797)
np.testing.assert_array_equal(train.images[:, 0], bunch.images[order].astype(np.float32) / 8.0 - 1.0)
np.testing.assert_array_equal(train.labels, bunch.target[order])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
