"""The feature space: equal on every machine, and sensitive to damage of pictures."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phema.shared.datasets import open_dataset
from phema.shared.metrics.moments import Moments, frechet_distance
from phema.shared.metrics.networks.random_convolutions import NUM_FEATURES, RandomConvFeatures
from phema.shared.recipes.run_config import DatasetConfig


def _pictures() -> Tensor:
    return torch.from_numpy(open_dataset(DatasetConfig()).train.images)


def _moments(pictures: Tensor) -> Moments:
    return Moments(NUM_FEATURES).add(RandomConvFeatures(1, 8)(pictures).numpy())


def test_equal_bits_in_every_process() -> None:
    script = (
        "import hashlib, numpy as np, torch\n"
        "from phema.shared.metrics.networks.random_convolutions import RandomConvFeatures\n"
        "torch.set_num_threads(1)\n"
        "x = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (8, 3, 16, 16)).astype(np.float32))\n"
        "print(hashlib.sha256(RandomConvFeatures(3, 16)(x).numpy().tobytes()).hexdigest())\n"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    x = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (8, 3, 16, 16)).astype(np.float32))
    here = hashlib.sha256(RandomConvFeatures(3, 16)(x).numpy().tobytes()).hexdigest()
    assert other.strip() == here


def test_the_features_of_a_known_picture_never_change() -> None:
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    found = RandomConvFeatures(1, 8)(ramp)[0, :4]
    np.testing.assert_allclose(found.numpy(), [1.1232858, 0.3024648, -0.2132529, 0.1193250], rtol=1e-4)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 4), (1, 8), (3, 10), (4, 64)])
def test_any_shape_gives_64_features_of_moderate_size(channels: int, resolution: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, resolution, resolution, generator=generator) * 2 - 1
    features = RandomConvFeatures(channels, resolution)(x)
    assert features.shape == (5, NUM_FEATURES)
    assert features.dtype == torch.float32
    assert 0.1 < float(features.square().mean().sqrt()) < 10


def test_distance_grows_with_every_kind_of_damage() -> None:
    pictures = _pictures()
    truth = _moments(pictures)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    by_noise = [frechet_distance(_moments(pictures + level * noise), truth) for level in (0.0, 0.1, 0.2, 0.4)]
    assert by_noise[0] == pytest.approx(0, abs=1e-6)
    assert by_noise == sorted(by_noise)
    blurred = functional.avg_pool2d(pictures, 3, 1, 1)
    shifted = torch.roll(pictures, 1, dims=3)
    without_eights = pictures[torch.from_numpy(open_dataset(DatasetConfig()).train.labels) != 8]
    for damaged in (blurred, shifted, without_eights):
        assert frechet_distance(_moments(damaged), truth) > 0.02


def test_values_outside_the_range_are_clipped() -> None:
    features = RandomConvFeatures(1, 8)
    wild = torch.full((1, 1, 8, 8), 7.0)
    assert torch.equal(features(wild), features(torch.ones(1, 1, 8, 8)))
