"""Inception-v3 in torch-fidelity's definition, with the weights of TensorFlow's graph of 2015-12-05."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.feature_extraction import FeatureExtractor, LoadRequest
from phema.shared.metrics.networks.fixed_batches import FixedBatches
from phema.shared.metrics.networks.pixels import to_rgb, to_uint8
from phema.shared.metrics.weights.assigning import assign
from phema.shared.metrics.weights.published import PublishedWeights, find_weights

if TYPE_CHECKING:
    from torch import nn

NUM_FEATURES = 2048
WEIGHTS = PublishedWeights(
    extractor="inception",
    files=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    url=("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"),
)
_BATCH_CPU, _BATCH_GPU = 4, 64


def load(request: LoadRequest) -> FeatureExtractor:
    """The extractor `inception`. Raises ScoringError if packages or weights are missing, and SnapshotError."""
    network = build()
    weights = find_weights(WEIGHTS, request.weights_path, request.store)
    assign(network, weights.tensors, weights, "inception")
    return _Inception(network.to(request.device).eval(), weights.sha256, torch.device(request.device))


def build() -> nn.Module:
    """The network on the meta device, without weights. Raises ScoringError without torch-fidelity."""
    declare_missing_operators()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ScoringError(
            f"extractor inception needs the package torch-fidelity, which cannot be imported ({error}); "
            "pip install 'phema[metrics]'"
        ) from error

    class Inception(FeatureExtractorInceptionV3):  # type: ignore[misc, unused-ignore]
        """The constructor reads a weight file with pickle. It gets an empty one, which is made here."""

        _built = False

        def load_state_dict(self, tensors: Any, **options: Any) -> Any:
            return super().load_state_dict(tensors, **options) if self._built else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.device("meta"):
        network = Inception("inception-v3-compat", [str(NUM_FEATURES)], feature_extractor_weights_path=empty)
    network._built = True
    return network


class _Inception:
    def __init__(self, network: nn.Module, weights_sha256: str, device: torch.device) -> None:
        self.identity = ExtractorIdentity(
            "inception",
            NUM_FEATURES,
            weights_sha256,
            resize="299x299 bilinear, TensorFlow 1 convention",
            antialias=False,
            uint8=True,
        )
        size = _BATCH_CPU if device.type == "cpu" else _BATCH_GPU
        self._features = FixedBatches(lambda pictures: network(to_rgb(to_uint8(pictures)))[0], size, device)

    def __call__(self, pictures: Tensor) -> Tensor:
        return self._features(pictures)
