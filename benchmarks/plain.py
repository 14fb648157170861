"""Configuration G without optimisations: the baseline for the optimisations of `phema.shared.edm2`.

Every layer normalises its weights in every forward pass (in training it first forces them to unit magnitude, in place).
Attention is two einsums and a softmax, and blends and concatenations follow the paper's equations. Everything runs
eagerly. Names in the state_dict are those of `phema.shared.edm2`, so that weights can be exchanged. A test checks that
the outputs are equal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.topology import BlockPlan, Topology, plan_unet


def unit(x: Tensor, dim: list[int]) -> Tensor:
    """Pixel or weight normalisation (Eq. 30, 47)."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x / (1e-4 + norm / math.sqrt(x.numel() / norm.numel())).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    return F.silu(x) / 0.596


def blend(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    c = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2))
    return torch.cat([c * (1 - t) / math.sqrt(a.shape[1]) * a, c * t / math.sqrt(b.shape[1]) * b], dim=1)


class PlainConv(nn.Module):
    """A convolution or linear layer that normalises its weights in each forward pass."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *([kernel, kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = self.weight
        dims = list(range(1, w.ndim))
        if self.training:
            with torch.no_grad():
                self.weight.copy_(unit(w, dims))
        w = unit(w, dims) * (gain / math.sqrt(w[0].numel()))
        w = w.to(x.dtype)
        return x @ w.t() if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


class PlainFourier(nn.Module):
    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * (x.to(self.freqs.dtype).outer(self.freqs) + self.phases).cos()


class PlainBlock(nn.Module):
    """Encoder or decoder block (Figure 22)."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, *, encoder: bool) -> None:
        super().__init__()
        self.plan, self.config, self.encoder, self.heads = plan, config, encoder, topology.heads(plan)
        width = plan.out_channels
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = PlainConv(width if encoder else plan.in_channels, width, 3)
        self.emb_linear = PlainConv(topology.embedding_channels, width, 0)
        self.conv_res1 = PlainConv(width, width, 3)
        self.conv_skip = PlainConv(plan.in_channels, width, 1) if plan.in_channels != width else None
        self.attn_qkv = PlainConv(width, 3 * width, 1) if self.heads else None
        self.attn_proj = PlainConv(width, width, 1) if self.heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        config = self.config
        if self.plan.resampling == "down":
            x = F.avg_pool2d(x, 2)
        elif self.plan.resampling == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.encoder:
            x = self.conv_skip(x) if self.conv_skip is not None else x
            x = unit(x, [1])
        y = self.conv_res0(silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = silu(y * scale[:, :, None, None].to(y.dtype))
        y = self.conv_res1(F.dropout(y, config.dropout, self.training))
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = blend(x, y, config.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            n, c, h, w = x.shape
            qkv = unit(self.attn_qkv(x).reshape(n, self.heads, -1, 3, h * w), [2])
            q, k, v = qkv.unbind(3)
            weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(q.shape[2])).softmax(dim=3)
            y = torch.einsum("nhqk,nhck->nhcq", weights, v)
            x = blend(x, self.attn_proj(y.reshape(n, c, h, w)), config.attn_balance)
        return x if config.clip_act is None else x.clip(-config.clip_act, config.clip_act)


class PlainUNet(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        topology = plan_unet(config)
        self.config = config
        self.takes_skip = {plan.name: plan.skip_channels > 0 for plan in topology.decoder}
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = PlainFourier(topology.noise_channels)
        self.emb_noise = PlainConv(topology.noise_channels, topology.embedding_channels, 0)
        self.emb_label = PlainConv(config.label_dim, topology.embedding_channels, 0) if config.label_dim else None
        self.enc = nn.ModuleDict({topology.stem: PlainConv(config.img_channels + 1, topology.stem_channels, 3)})
        for plan in topology.encoder:
            self.enc[plan.name] = PlainBlock(plan, topology, config, encoder=True)
        self.dec = nn.ModuleDict({p.name: PlainBlock(p, topology, config, encoder=False) for p in topology.decoder})
        self.out_conv = PlainConv(topology.decoder[-1].out_channels, config.img_channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            labels = class_labels if class_labels is not None else emb.new_zeros([1, self.config.label_dim])
            label = self.emb_label(labels.to(emb.dtype) * math.sqrt(self.config.label_dim))
            emb = blend(emb, label, self.config.label_balance)
        emb = silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, PlainBlock) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if self.takes_skip[name]:
                x = cat(x, skips.pop(), self.config.concat_balance)
            x = block(x, emb)
        out: Tensor = self.out_conv(x, gain=self.out_gain)
        return out


def plain_denoiser(config: NetworkConfig, precision: str = "float32") -> Denoiser:
    """The denoiser of `phema.shared.edm2.networks.building.build_denoiser`, with the plain network."""
    return Denoiser(
        config,
        unet=PlainUNet(config),
        logvar_fourier=PlainFourier(config.logvar_channels),
        logvar_linear=PlainConv(config.logvar_channels, 1, 0),
        precision=precision,  # type: ignore[arg-type]
    )
