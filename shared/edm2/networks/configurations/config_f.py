"""Residual blocks of configuration F (Karras et al. 2024, Appendix B.6, Figure 21).

The order of operations is the same as in G, which adds balanced sums and magnitude-preserving functions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.configurations.architecture import Architecture
from phema.shared.edm2.networks.configurations.config_a import AttentionBlock
from phema.shared.edm2.networks.layers import normalize, resample
from phema.shared.edm2.networks.topology import BlockPlan, Topology


class Block(AttentionBlock):
    """Base of both blocks: resampling on the main path, and a residual branch without norms."""

    def __init__(
        self,
        plan: BlockPlan,
        topology: Topology,
        config: NetworkConfig,
        arch: Architecture,
        branch_channels: int,
    ) -> None:
        super().__init__(plan, topology, config, arch)
        self.resampling = plan.resampling
        self.dropout = config.dropout
        width = plan.out_channels
        self.conv_res0 = arch.layer(branch_channels, width, 3)
        self.emb_linear = arch.layer(topology.embedding_channels, arch.conditioning.numbers * width, 0)
        self.conv_res1 = arch.closing_layer(width, width, 3)
        self.conv_skip = arch.layer(plan.in_channels, width, 1) if plan.in_channels != width else None

    def _branch(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.arch.conditioning.apply(self.conv_res0(F.silu(x)), self.emb_linear(emb))
        return self.conv_res1(F.dropout(F.silu(y), self.dropout, self.training))  # type: ignore[no-any-return]

    def _main(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)


class EncoderBlock(Block):
    """Resample, widen, pixel norm; then the residual branch."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> None:
        super().__init__(plan, topology, config, arch, branch_channels=plan.out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = normalize(self._main(resample(x, self.resampling)), dim=1)
        return self._finish(x + self._branch(x, emb))


class DecoderBlock(Block):
    """Resample; then the residual branch. The main path is narrowed after the branch. No norm."""

    def __init__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> None:
        super().__init__(plan, topology, config, arch, branch_channels=plan.in_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resample(x, self.resampling)
        return self._finish(self._main(x) + self._branch(x, emb))
