"""The choices that define a U-Net of configurations A to F."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.topology import BlockPlan, Topology


class MakeLayer(Protocol):
    """Makes a convolution with a `kernel` x `kernel` window, or a linear layer if `kernel` is 0."""

    def __call__(self, in_channels: int, out_channels: int, kernel: int) -> nn.Module: ...


class MakeBlock(Protocol):
    """Makes a block, which takes [N, C, H, W] and the embedding [N, E]."""

    def __call__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> nn.Module: ...


class Conditioning(NamedTuple):
    """How the embedding acts in a block: `apply(features, values)` with `numbers` values per channel."""

    numbers: int
    apply: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Architecture:
    """The choices of one configuration. Fields named after a module make it from its number of channels."""

    constant_channels: int
    """Channels of ones appended to the network's input."""
    layer: MakeLayer
    closing_layer: MakeLayer
    """The last layer of a residual branch, of attention, and of the network."""

    noise_features: Callable[[int], nn.Module]
    """Makes the module that maps the scalar noise level to the given number of features."""
    noise_layers: int
    """Number of linear layers from these features to the embedding, with SiLU between them."""
    class_layer: MakeLayer
    label_scale: Callable[[int], float]
    """Factor of the one-hot labels, given the number of classes."""

    encoder_block: MakeBlock
    decoder_block: MakeBlock
    norm: Callable[[int], nn.Module]
    conditioning: Conditioning
    attention_norm: Callable[[int], nn.Module]
    attend: Callable[[Tensor, int], Tensor]
    """[N, 3C, H, W] and the number of heads to [N, C, H, W]. Channel order: head, channel of the head, {q, k, v}."""
    clips: bool
    """Whether the output of a block is clipped at the network's `clip_act`."""

    before_output: Callable[[int, Architecture], nn.Module]
    """Module before the last convolution of the network."""
    uncertainty_features: Callable[[int], nn.Module] | None
    """Features of the noise level for the uncertainty head; None for no such head."""
    forces_weights: bool
    """Whether training normalises the raw weights before each step."""
