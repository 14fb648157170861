"""Features for Fréchet distances that need no download: fixed random convolutions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.feature_extraction import FeatureExtractor, LoadRequest
from phema.shared.metrics.networks.fixed_batches import FixedBatches

NUM_FEATURES = 64
_CHANNELS = 64
_GRID = 4
_SEED = 20231205
_BATCH = 64


def load(request: LoadRequest) -> FeatureExtractor:
    """The extractor `random` for pictures of one shape."""
    return _Random(request)


class _Random:
    identity = ExtractorIdentity("random", NUM_FEATURES)

    def __init__(self, request: LoadRequest) -> None:
        dataset, device = request.dataset, request.device
        network = RandomConvFeatures(dataset.channels, dataset.resolution, device)
        self._features = FixedBatches(network, _BATCH, device)

    def __call__(self, pictures: Tensor) -> Tensor:
        return self._features(pictures)


class RandomConvFeatures:
    """Pictures [N, C, H, W] in [-1, 1] -> features [N, 64], the same on every machine.

    Stages of 3x3 convolution, ReLU and 2x2 average pooling reduce the pictures to a 4x4 map of 64 channels. A random
    projection turns the map into 64 features, which depend on strokes and their positions. All weights come from
    NumPy's `RandomState`, whose stream never changes, and are scaled to keep the magnitude of their input.

    Distances in this space order the networks of one run. They are not comparable with FID or any other published
    figure, nor between different numbers of samples: the estimate has an upward bias of about 1/num_samples.
    """

    def __init__(self, channels: int, resolution: int, device: torch.device | str = "cpu") -> None:
        random = np.random.RandomState(_SEED)

        def weights(outputs: int, *inputs: int) -> Tensor:
            gain = (2 / np.prod(inputs)) ** 0.5
            drawn = random.standard_normal((outputs, *inputs)) * gain
            return torch.from_numpy(drawn.astype(np.float32)).to(device)

        self._stages = [weights(_CHANNELS, channels, 3, 3)]
        while resolution > _GRID:
            self._stages.append(weights(_CHANNELS, _CHANNELS, 3, 3))
            resolution //= 2
        self._projection = weights(NUM_FEATURES, _CHANNELS * _GRID * _GRID)

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """float32 [N, C, H, W] -> float32 [N, 64]. Values outside [-1, 1] are clipped, as in a picture file."""
        x = pictures.clamp(-1, 1)
        for i, stage in enumerate(self._stages):
            if i:
                x = functional.avg_pool2d(x, 2, ceil_mode=True)
            x = functional.relu(functional.conv2d(x, stage, padding=1))
        x = functional.adaptive_avg_pool2d(x, _GRID)
        return functional.linear(x.flatten(1), self._projection)
