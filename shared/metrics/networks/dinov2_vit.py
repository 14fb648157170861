"""DINOv2 ViT-L/14 in timm's definition, with the published weights and their published preparation of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

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

ARCHITECTURE = "vit_large_patch14_dinov2"
NUM_FEATURES = 1024
WEIGHTS = PublishedWeights(
    extractor="dinov2",
    files=("dinov2_vitl14_pretrain.pth",),
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
)
SIZE = 224
"""Side of the pictures that the network sees, in pixels: 16 patches of 14."""
_PATCHES = SIZE // 14
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_OFFSET = 0.1
"""The published network scales its grid of positions by (patches + 0.1) / stored."""
_BATCH_CPU, _BATCH_GPU = 4, 64


def load(request: LoadRequest) -> FeatureExtractor:
    """The extractor `dinov2`. Raises ScoringError if packages or weights are missing, and SnapshotError."""
    return load_architecture(request, ARCHITECTURE, WEIGHTS)


def load_architecture(request: LoadRequest, architecture: str, published: PublishedWeights) -> FeatureExtractor:
    """As `load`, for any DINOv2 network of timm without registers."""
    network = build(architecture)
    weights = find_weights(published, request.weights_path, request.store)
    assign(network, _network_tensors(weights.tensors), weights, published.extractor)
    return _Dino(network.to(request.device).eval(), weights.sha256, torch.device(request.device))


def build(architecture: str) -> nn.Module:
    """The network for pictures of SIZE on the meta device, without weights. Raises ScoringError without timm."""
    declare_missing_operators()
    try:
        import timm
    except ImportError as error:
        raise ScoringError(
            f"extractor dinov2 needs the package timm, which cannot be imported ({error}); pip install 'phema[metrics]'"
        ) from error
    with torch.device("meta"):
        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=SIZE)
    return network


def prepared(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> what the network sees, float32 [N, 3, 224, 224].

    Resized by a bicubic kernel that is widened when it makes pictures smaller, and normalised with ImageNet's mean and
    standard deviation.
    """
    resized = functional.interpolate(pictures.float(), size=(SIZE, SIZE), mode="bicubic", antialias=True)
    mean = torch.tensor(_MEAN, device=pictures.device)[:, None, None]
    std = torch.tensor(_STD, device=pictures.device)[:, None, None]
    return (resized / 255 - mean) / std


def _network_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors for pictures of SIZE: without the token of masked training, positions on a smaller grid."""
    found = {name: tensor for name, tensor in tensors.items() if name != "mask_token"}
    if (positions := found.get("pos_embed")) is not None and positions.ndim == 3:
        found["pos_embed"] = resampled_positions(positions.float())
    return found


def resampled_positions(positions: Tensor) -> Tensor:
    """[1, 1 + n², d] -> [1, 1 + 16², d]: bicubic without antialiasing, as the published network does it."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1 or side == _PATCHES:
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (_PATCHES + _OFFSET) / side
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, _PATCHES**2, -1)], dim=1)


class _Dino:
    def __init__(self, network: Any, weights_sha256: str, device: torch.device) -> None:
        self.identity = ExtractorIdentity(
            "dinov2",
            int(network.num_features),
            weights_sha256,
            resize=f"{SIZE}x{SIZE} bicubic",
            antialias=True,
            uint8=True,
        )
        size = _BATCH_CPU if device.type == "cpu" else _BATCH_GPU
        self._features = FixedBatches(lambda pictures: network(prepared(to_rgb(to_uint8(pictures)))), size, device)

    def __call__(self, pictures: Tensor) -> Tensor:
        return self._features(pictures)
