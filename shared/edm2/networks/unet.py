"""The U-Net of configuration G (Karras et al. 2024, Figure 22).

Shapes: N pictures, C channels, H x W pixels. The names in the state_dict are those of EDM2's published networks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.layers import (
    SILU_GAIN,
    MPConv,
    MPFourier,
    cosine_attention,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)
from phema.shared.edm2.networks.topology import BlockPlan, Topology, plan_unet


class Block(nn.Module):
    """Base of encoder and decoder blocks: the conditioned residual branch and cosine attention."""

    conv_skip: MPConv | None

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, branch_channels: int) -> None:
        super().__init__()
        self.resampling = plan.resampling
        self.num_heads = topology.heads(plan)
        self.dropout = config.dropout
        self.res_balance = config.res_balance
        self.attn_balance = config.attn_balance
        self.clip_act = config.clip_act
        width = plan.out_channels
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(branch_channels, width, kernel=3)
        self.emb_linear = MPConv(topology.embedding_channels, width, kernel=0)
        self.conv_res1 = MPConv(width, width, kernel=3)
        self.conv_skip = MPConv(plan.in_channels, width, kernel=1) if plan.in_channels != width else None
        if self.num_heads:
            self.attn_qkv = MPConv(width, 3 * width, kernel=1)
            self.attn_proj = MPConv(width, width, kernel=1)

    def _branch(self, x: Tensor, emb: Tensor) -> Tensor:
        """An MP-SiLU precedes each convolution; its constant is part of the convolution's gain."""
        y = self.conv_res0(F.silu(x), gain=SILU_GAIN)
        gain_NC = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = F.silu(y * gain_NC[:, :, None, None].to(y.dtype))
        y = F.dropout(y, self.dropout, self.training)
        return self.conv_res1(y, gain=SILU_GAIN)  # type: ignore[no-any-return]

    def _finish(self, x: Tensor, branch: Tensor) -> Tensor:
        x = mp_sum(x, branch, self.res_balance)
        if self.num_heads:
            x = mp_sum(x, self._attend(x), self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def _attend(self, x: Tensor) -> Tensor:
        return self.attn_proj(cosine_attention(self.attn_qkv(x), self.num_heads))  # type: ignore[no-any-return]


class EncoderBlock(Block):
    """Resample, widen, pixel norm; then the residual branch."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig) -> None:
        super().__init__(plan, topology, config, branch_channels=plan.out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resample(x, self.resampling)
        if self.conv_skip is not None:
            x = self.conv_skip(x)
        x = normalize(x, dim=1)
        return self._finish(x, self._branch(x, emb))


class DecoderBlock(Block):
    """Resample; then the residual branch. The main path is narrowed after the branch. No normalisation."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig) -> None:
        super().__init__(plan, topology, config, branch_channels=plan.in_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resample(x, self.resampling)
        branch = self._branch(x, emb)
        if self.conv_skip is not None:
            x = self.conv_skip(x)
        return self._finish(x, branch)


class UNet(nn.Module):
    """F(c_in x; c_noise, class): [N, C, H, W] in and out, in the dtype of the input; the embedding in full precision.

    `c_noise` is [N], or [1] for one noise level of all pictures. `class_labels` is one-hot [N, label_dim]; all-zero
    rows mean "no label". The output is zero at initialisation because its gain is zero.
    """

    emb_label: MPConv | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        topology = plan_unet(config)
        self.label_dim = config.label_dim
        self.label_balance = config.label_balance
        self.concat_balance = config.concat_balance
        self.takes_skip = {plan.name: plan.skip_channels > 0 for plan in topology.decoder}
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(topology.noise_channels)
        self.emb_noise = MPConv(topology.noise_channels, topology.embedding_channels, kernel=0)
        self.emb_label = MPConv(config.label_dim, topology.embedding_channels, kernel=0) if config.label_dim else None
        # The extra input channel is constant 1 and replaces biases.
        self.enc = nn.ModuleDict({topology.stem: MPConv(config.img_channels + 1, topology.stem_channels, kernel=3)})
        self.enc.update({plan.name: EncoderBlock(plan, topology, config) for plan in topology.encoder})
        self.dec = nn.ModuleDict({plan.name: DecoderBlock(plan, topology, config) for plan in topology.decoder})
        self.out_conv = MPConv(topology.decoder[-1].out_channels, config.img_channels, kernel=3)

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self._embed(c_noise, class_labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, EncoderBlock) else layer(x)
            skips.append(x)
        for name, block in self.dec.items():
            if self.takes_skip[name]:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = block(x, emb)
        return self.out_conv(x, gain=self.out_gain)  # type: ignore[no-any-return]

    def _embed(self, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
        emb: Tensor = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            if class_labels is None:
                class_labels = emb.new_zeros([1, self.label_dim])
            label = self.emb_label(class_labels.to(emb.dtype) * math.sqrt(self.label_dim))
            emb = mp_sum(emb, label, self.label_balance)
        return mp_silu(emb)
