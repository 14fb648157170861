"""Magnitude-preserving layers of configuration G (Karras et al. 2024, Appendix B.4-B.7).

The magnitude of a tensor is the root mean square of its elements. Every function here keeps the expected magnitude at 1
for uncorrelated inputs of magnitude 1. Shapes: N pictures, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phema.shared.edm2.networks.topology import Resampling

EPSILON = 1e-4
_SILU_MAGNITUDE = 0.596  # sqrt(E silu(z)^2) of standard normal z
SILU_GAIN = 1 / _SILU_MAGNITUDE
"""Gain of a layer whose input is a plain SiLU. Scaling the weights is cheaper than scaling the activations."""


def normalize(x: Tensor, dim: int | Sequence[int] | None = None, eps: float = EPSILON) -> Tensor:
    """x / (eps + RMS of x over `dim`) (Eq. 30, 47). `dim` None means all but the first. Keeps dtype and shape."""
    return x * _inverse_rms(x, dim, eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU divided by its magnitude for standard normal input (Eq. 81)."""
    return F.silu(x) / _SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Blend (1 - t) a + t b of two uncorrelated tensors, rescaled to unit magnitude (Eq. 88)."""
    scale = 1 / math.hypot(1 - t, t)
    return torch.add(a * ((1 - t) * scale), b, alpha=t * scale)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Channel concatenation in which b contributes t and a 1 - t, for any numbers of channels (Eq. 103)."""
    c_a, c_b = a.shape[1], b.shape[1]
    scale = math.sqrt((c_a + c_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(c_a)), b * (scale * t / math.sqrt(c_b))], dim=1)


def resample(x: Tensor, mode: Resampling) -> Tensor:
    """2 x 2 box filter: average to half the resolution, or repeat pixels to twice the resolution."""
    if mode == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest") if mode == "up" else x


def cosine_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention between queries, keys and values of unit magnitude, pixel by pixel and head by head (Eq. 30).

    [N, 3C, H, W] to [N, C, H, W]; channels run head first, then channel of the head, then {q, k, v}.
    """
    n, triple, h, w = qkv.shape
    unit = normalize(qkv.reshape(n, heads, triple // 3 // heads, 3, h * w), dim=2)
    q, k, v = unit.permute(3, 0, 1, 4, 2).contiguous().unbind(0)  # each [N, heads, HW, C of the head]
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, triple // 3, h, w)


class MPConv(nn.Module):
    """Convolution, or linear layer when `kernel` is 0, whose weights have unit norm per output channel (Eq. 47, 66).

    `weight` is the raw parameter, [out, in, kernel, kernel] or [out, in], of unit magnitude. It is normalised on use,
    in its own precision, so its gradient is tangent to the sphere. The layer computes in the dtype of its input.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.padding = kernel // 2
        shape = (out_channels, in_channels, kernel, kernel) if kernel else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.randn(shape))
        self._frozen: dict[torch.dtype, Tensor] | None = None

    def forward(self, x: Tensor, gain: Tensor | float | None = None) -> Tensor:
        weight = self._effective_weight(x.dtype, gain)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=self.padding)

    def _effective_weight(self, dtype: torch.dtype, gain: Tensor | float | None) -> Tensor:
        frozen = self._frozen
        if frozen is None:
            return self._normalized(dtype, gain)
        if dtype not in frozen:
            weight = self._normalized(dtype, gain).detach()
            # The output of a convolution has the layout of its weights, and inference is fastest with channels last.
            channels_last = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
            frozen[dtype] = weight.contiguous(memory_format=channels_last)
        return frozen[dtype]

    def _normalized(self, dtype: torch.dtype, gain: Tensor | float | None) -> Tensor:
        # Norm, fan-in and gain are combined to one factor per output channel: a single pass over the weights.
        scale = _inverse_rms(self.weight, None, EPSILON) / math.sqrt(self.weight[0].numel())
        return (self.weight * (scale if gain is None else scale * gain)).to(dtype)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(2 pi (f a + phi)) of a scalar (Eq. 75): [N] to [N, num_channels].

    `freqs` and `phases` are constant and include the factor 2 pi.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, a: Tensor) -> Tensor:
        angles_NF = torch.outer(a.to(self.freqs.dtype), self.freqs) + self.phases
        return angles_NF.cos() * math.sqrt(2)


@torch.no_grad()
def normalize_weights_(module: nn.Module) -> None:
    """Forced weight normalisation: scale every MPConv weight to unit magnitude per output channel, in place (Eq. 66).

    Call it once per training iteration, before the forward pass. A second call changes weights by at most 1e-4.
    """
    for layer in module.modules():
        if isinstance(layer, MPConv):
            layer.weight.mul_(_inverse_rms(layer.weight, None, EPSILON))


@contextmanager
def frozen_weights(*modules: nn.Module) -> Iterator[None]:
    """Normalise each weight once for all forward passes inside. Weights and gains must not change inside."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, MPConv)]
    before = [layer._frozen for layer in layers]
    for layer in layers:
        layer._frozen = {}
    try:
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer._frozen = previous


def _inverse_rms(x: Tensor, dim: int | Sequence[int] | None, eps: float) -> Tensor:
    """1 / (eps + RMS over `dim`) with dimensions kept, accumulated in float32 or better.

    The backward pass of a multiplication by the reciprocal takes half the time of that of a division.
    """
    dims = list(range(1, x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    norm = _norm(x, dims)
    inverse: Tensor = (norm / math.sqrt(x.numel() // norm.numel()) + eps).reciprocal()
    return inverse


def _norm(x: Tensor, dims: list[int]) -> Tensor:
    """Euclidean norm over `dims`, by the faster of two methods.

    On CPUs, vector_norm is 20 times slower than a sum for strided elements (channels), and faster for contiguous ones
    (weights).
    """
    if x.dtype in (torch.float32, torch.float64) and x.ndim - 1 not in dims:
        # The addend is lost in rounding unless the sum is 0; then it makes the gradient of the root 0 instead of NaN.
        return (x.square().sum(dim=dims, keepdim=True) + 1e-30).sqrt()
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=dtype)
    return norm
