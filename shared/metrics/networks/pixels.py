"""Pictures as a picture file would hold them: 8 bits per value. Most extractors see no other."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(pictures: Tensor) -> Tensor:
    """[-1, 1] -> uint8 0..255: x · 127.5 + 127.5 rounded to nearest, halves up, and clipped."""
    return (pictures.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_rgb(pictures: Tensor) -> Tensor:
    """[N, 1 or 3, H, W] -> [N, 3, H, W]: grey is repeated."""
    return pictures if pictures.shape[1] == 3 else pictures.expand(-1, 3, -1, -1)
