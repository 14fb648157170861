"""The U-Net of configurations A to F, built from an `Architecture`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.configurations.architecture import Architecture
from phema.shared.edm2.networks.topology import plan_unet


class ConfigurableUNet(nn.Module):
    """F(c_in x; c_noise, class): [N, C, H, W] in and out, in the dtype of the input; the embedding in full precision.

    `c_noise` is [N], or [1] for one noise level of all pictures. `class_labels` is one-hot [N, label_dim]; all-zero
    rows mean "no label". Names in the state_dict are those of configuration G where the layer is the same.
    """

    def __init__(self, config: NetworkConfig, arch: Architecture) -> None:
        super().__init__()
        topology = plan_unet(config)
        width = topology.embedding_channels
        self.label_dim = config.label_dim
        self.label_scale = arch.label_scale(config.label_dim)
        self.constant_channels = arch.constant_channels
        self.takes_skip = {plan.name: plan.skip_channels > 0 for plan in topology.decoder}

        self.emb_fourier = arch.noise_features(topology.noise_channels)
        self.emb_noise = arch.layer(topology.noise_channels, width, 0)
        self.emb_hidden = nn.ModuleList(arch.layer(width, width, 0) for _ in range(arch.noise_layers - 1))
        self.emb_label = arch.class_layer(config.label_dim, width, 0) if config.label_dim else None
        stem = arch.layer(config.img_channels + arch.constant_channels, topology.stem_channels, 3)
        self.enc = nn.ModuleDict({topology.stem: stem})
        self.enc.update({plan.name: arch.encoder_block(plan, topology, config, arch) for plan in topology.encoder})
        self.dec = nn.ModuleDict(
            {plan.name: arch.decoder_block(plan, topology, config, arch) for plan in topology.decoder}
        )
        last = topology.decoder[-1].out_channels
        self.out_norm = arch.before_output(last, arch)
        self.out_conv = arch.closing_layer(last, config.img_channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self._embed(c_noise, class_labels)
        if self.constant_channels:
            ones = x.new_ones([len(x), self.constant_channels, *x.shape[2:]])
            x = torch.cat([x, ones], dim=1)
        stem, *blocks = self.enc.values()
        x = stem(x)
        skips = [x]
        for block in blocks:
            x = block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if self.takes_skip[name]:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)
        return self.out_conv(self.out_norm(x))  # type: ignore[no-any-return]

    def _embed(self, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
        emb: Tensor = self.emb_noise(self.emb_fourier(c_noise))
        for layer in self.emb_hidden:
            emb = layer(F.silu(emb))
        if self.emb_label is not None:
            if class_labels is None:
                class_labels = emb.new_zeros([1, self.label_dim])
            emb = emb + self.emb_label(class_labels.to(emb.dtype) * self.label_scale)
        return F.silu(emb)
