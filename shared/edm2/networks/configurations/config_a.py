"""Layers and blocks of configuration A, EDM's variant of ADM (Karras et al. 2024, Appendix B.1, Figure 16).

Shapes: N pictures, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.configurations.architecture import Architecture
from phema.shared.edm2.networks.layers import resample
from phema.shared.edm2.networks.topology import BlockPlan, Topology, norm_groups


class Layer(nn.Module):
    """Convolution, or linear layer if `kernel` is 0, initialised with U(+-1 / sqrt(fan-in)).

    Parameters keep their precision; the layer computes in the dtype of its input.
    """

    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool) -> None:
        super().__init__()
        self.padding = kernel // 2
        shape = (out_channels, in_channels, kernel, kernel) if kernel else (out_channels, in_channels)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, weight, bias) if weight.ndim == 2 else F.conv2d(x, weight, bias, padding=self.padding)


def biased_layer(in_channels: int, out_channels: int, kernel: int) -> Layer:
    return Layer(in_channels, out_channels, kernel, bias=True)


def zero_layer(in_channels: int, out_channels: int, kernel: int) -> Layer:
    """A biased layer whose output is zero at initialisation."""
    layer = biased_layer(in_channels, out_channels, kernel)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ClassTable(Layer):
    """Class embedding: one row of standard normal numbers per class, for one-hot input. No bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, bias=False)
        nn.init.normal_(self.weight)


class GroupNorm(nn.Module):
    """Group normalisation with a learned scale and bias per channel, statistics in float32 or better."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = norm_groups(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class PositionalFeatures(nn.Module):
    """[N] to [N, num_channels]: cos, then sin, of the input times 10000^(-i / half), i = 0 ... half - 1.

    `num_channels` = 2 half is even.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.pairs = num_channels // 2

    def forward(self, a: Tensor) -> Tensor:
        exponents = torch.arange(self.pairs, dtype=a.dtype, device=a.device) / -self.pairs
        angles = torch.outer(a, 10000**exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def unscaled(label_dim: int) -> float:
    return 1.0


def scale_and_shift(y: Tensor, numbers: Tensor) -> Tensor:
    """y (1 + scale) + shift per channel, for y [N, C, H, W] and numbers [N, 2C]."""
    scale, shift = numbers[:, :, None, None].to(y.dtype).chunk(2, dim=1)
    return torch.addcmul(shift, y, 1 + scale)


def softmax_attention(qkv: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention, computed in float32 or better."""
    n, triple, h, w = qkv.shape
    wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
    q, k, v = wide.reshape(n, heads, triple // 3 // heads, 3, h * w).permute(3, 0, 1, 4, 2).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v)  # [N, heads, HW, C of the head]
    return y.transpose(2, 3).reshape(n, triple // 3, h, w).to(qkv.dtype)


def norm_and_silu(channels: int, arch: Architecture) -> nn.Module:
    return nn.Sequential(arch.norm(channels), nn.SiLU())


class AttentionBlock(nn.Module):
    """Base of the blocks of A to F: the attention after the residual sum."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.num_heads = topology.heads(plan)
        self.clip_act = config.clip_act
        if self.num_heads:
            width = plan.out_channels
            self.attn_norm = arch.attention_norm(width)
            self.attn_qkv = arch.layer(width, 3 * width, 1)
            self.attn_proj = arch.closing_layer(width, width, 1)

    def _finish(self, x: Tensor) -> Tensor:
        if self.num_heads:
            x = x + self.attn_proj(self.arch.attend(self.attn_qkv(self.attn_norm(x)), self.num_heads))
        if self.clip_act is None or not self.arch.clips:
            return x
        return x.clamp(-self.clip_act, self.clip_act)


class ResidualBlock(AttentionBlock):
    """Encoder and decoder block of configurations A to E: twice normalise, activate, (resample,) convolve."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> None:
        super().__init__(plan, topology, config, arch)
        self.resampling = plan.resampling
        self.dropout = config.dropout
        width = plan.out_channels
        self.norm_res0 = arch.norm(plan.in_channels)
        self.conv_res0 = arch.layer(plan.in_channels, width, 3)
        self.emb_linear = arch.layer(topology.embedding_channels, arch.conditioning.numbers * width, 0)
        self.norm_res1 = arch.norm(width)
        self.conv_res1 = arch.closing_layer(width, width, 3)
        self.conv_skip = arch.layer(plan.in_channels, width, 1) if plan.in_channels != width else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv_res0(resample(F.silu(self.norm_res0(x)), self.resampling))
        y = F.silu(self.arch.conditioning.apply(self.norm_res1(y), self.emb_linear(emb)))
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))
        x = resample(x, self.resampling)
        if self.conv_skip is not None:
            x = self.conv_skip(x)
        return self._finish(x + y)
