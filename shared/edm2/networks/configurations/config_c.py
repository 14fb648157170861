"""Layers that configuration C introduces (Karras et al. 2024, Appendix B.3, Figure 18)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from phema.shared.edm2.networks.configurations.config_a import Layer
from phema.shared.edm2.networks.layers import MPFourier, normalize
from phema.shared.edm2.networks.topology import norm_groups


def uniform_layer(in_channels: int, out_channels: int, kernel: int) -> Layer:
    return Layer(in_channels, out_channels, kernel, bias=False)


class GroupScale(nn.Module):
    """Divides each group of channels by its RMS over the picture. No learned parameters, no mean subtraction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = norm_groups(channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return normalize(x.reshape(n, self.groups, c // self.groups, h, w), dim=(2, 3, 4)).reshape(n, c, h, w)


class FourierFeatures(MPFourier):
    """Random Fourier features cos(2 pi (f a + phi)) of a scalar, without G's factor sqrt(2)."""

    def forward(self, a: Tensor) -> Tensor:
        return super().forward(a) / math.sqrt(2)


def scale(y: Tensor, numbers: Tensor) -> Tensor:
    """y (1 + scale) per channel, for y [N, C, H, W] and numbers [N, C]."""
    return y * (1 + numbers)[:, :, None, None].to(y.dtype)
