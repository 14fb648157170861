"""Random weights in the layouts in which Inception-v3 and DINOv2 are published."""

from __future__ import annotations

import torch
from torch import Tensor

from phema.shared.metrics.networks import inception_v3


def inception_weights() -> dict[str, Tensor]:
    """95 MB. The published file holds the state of the package's module."""
    generator = torch.Generator().manual_seed(0)
    return {name: _value(name, tensor, generator) for name, tensor in inception_v3.build().state_dict().items()}


def dinov2_shapes(width: int, depth: int, side: int = 37) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published DINOv2 networks without registers, for pictures of 14 · side pixels."""
    block: dict[str, tuple[int, ...]] = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
        "ls2.gamma": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side * side, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
    }
    shapes |= {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def dinov2_weights(width: int, depth: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: _value(name, torch.empty(shape, device="meta"), generator)
        for name, shape in dinov2_shapes(width, depth).items()
    }


def _value(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Weights that keep the magnitude of activations."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(like.shape, dtype=torch.int64)
    drawn = torch.randn(like.shape, generator=generator)
    if name.endswith(("running_var", "norm1.weight", "norm2.weight", "norm.weight", "bn.weight")):
        return 1 + 0.1 * drawn.abs()
    if like.ndim >= 2 and name.endswith("weight"):
        return drawn * (2 / like[0].numel()) ** 0.5
    return 0.3 * drawn
