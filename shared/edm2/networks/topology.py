"""The blocks of the U-Net: position, width and attention, common to all configurations. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from phema.shared.edm2.networks.config import NetworkConfig

Resampling = Literal["keep", "down", "up"]


@dataclass(frozen=True)
class BlockPlan:
    """One residual block. `resolution` is that of the output; `in_channels` includes `skip_channels`."""

    name: str
    resolution: int
    in_channels: int
    out_channels: int
    attention: bool = False
    resampling: Resampling = "keep"
    skip_channels: int = 0
    """Channels of the encoder output that is concatenated before the block; 0 for none."""


@dataclass(frozen=True)
class Topology:
    """The U-Net of Figures 16-22: an input convolution (`stem`), then encoder and decoder blocks in execution order."""

    stem: str
    stem_channels: int
    encoder: tuple[BlockPlan, ...]
    decoder: tuple[BlockPlan, ...]
    noise_channels: int
    embedding_channels: int
    head_channels: int

    def heads(self, block: BlockPlan) -> int:
        """Number of attention heads of a block; 0 without attention."""
        return block.out_channels // self.head_channels if block.attention else 0


def plan_unet(config: NetworkConfig) -> Topology:
    """Every encoder output, including the stem's, is a skip; the decoder takes them last in, first out."""
    encoder, skips = _encoder(config)
    decoder = _decoder(config, skips)
    finest = config.img_resolution
    return Topology(
        stem=f"{finest}x{finest}_conv",
        stem_channels=config.levels[0][1],
        encoder=encoder,
        decoder=decoder,
        noise_channels=config.levels[0][1],
        embedding_channels=max(channels for _, channels in config.levels),
        head_channels=config.channels_per_head,
    )


def norm_groups(channels: int) -> int:
    """Groups of a group norm (configurations A to E): EDM's min(32, channels / 4), or the next smaller divisor."""
    return max(groups for groups in range(1, max(1, min(32, channels // 4)) + 1) if channels % groups == 0)


def _encoder(config: NetworkConfig) -> tuple[tuple[BlockPlan, ...], list[int]]:
    blocks: list[BlockPlan] = []
    width = config.levels[0][1]
    skips = [width]
    for level, (resolution, channels) in enumerate(config.levels):
        name = f"{resolution}x{resolution}"
        if level:
            blocks.append(BlockPlan(f"{name}_down", resolution, width, width, resampling="down"))
            skips.append(width)
        for i in range(config.num_blocks):
            attention = resolution in config.attn_resolutions
            blocks.append(BlockPlan(f"{name}_block{i}", resolution, width, channels, attention))
            width = channels
            skips.append(width)
    return tuple(blocks), skips


def _decoder(config: NetworkConfig, skips: list[int]) -> tuple[BlockPlan, ...]:
    blocks: list[BlockPlan] = []
    remaining = list(skips)
    coarsest = len(config.levels) - 1
    width = config.levels[-1][1]
    for level, (resolution, channels) in reversed(list(enumerate(config.levels))):
        name = f"{resolution}x{resolution}"
        if level == coarsest:
            blocks.append(BlockPlan(f"{name}_in0", resolution, width, width, attention=True))
            blocks.append(BlockPlan(f"{name}_in1", resolution, width, width))
        else:
            blocks.append(BlockPlan(f"{name}_up", resolution, width, width, resampling="up"))
        for i in range(config.num_blocks + 1):
            skip = remaining.pop()
            attention = resolution in config.attn_resolutions
            blocks.append(
                BlockPlan(f"{name}_block{i}", resolution, width + skip, channels, attention, skip_channels=skip)
            )
            width = channels
    return tuple(blocks)
