"""What a U-Net of configurations A to F is put together from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.topology import BlockPlan, Topology


class MakeLayer(Protocol):
    """Convolution with a `kernel` x `kernel` window, or linear layer when `kernel` is 0."""

    def __call__(self, in_channels: int, out_channels: int, kernel: int) -> nn.Module: ...


class MakeBlock(Protocol):
    """A block takes [N, C, H, W] and the embedding [N, E]."""

    def __call__(self, plan: BlockPlan, topology: Topology, config: NetworkConfig, arch: Architecture) -> nn.Module: ...


class Conditioning(NamedTuple):
    """How the embedding acts inside a block: `apply(features, numbers)` with so many numbers per channel."""

    numbers: int
    apply: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Architecture:
    """One configuration's choices. Callables named after a module make it from its number of channels."""

    constant_channels: int
    """Channels of ones appended to the network's input."""
    layer: MakeLayer
    closing_layer: MakeLayer
    """The last layer of a residual branch, of attention, and of the network."""

    noise_features: Callable[[int], nn.Module]
    """Features of the scalar noise level, so many for each."""
    noise_layers: int
    """Linear layers between these features and the class embedding, SiLU between them."""
    class_layer: MakeLayer
    label_scale: Callable[[int], float]
    """Factor of the one-hot labels, by the number of classes."""

    encoder_block: MakeBlock
    decoder_block: MakeBlock
    norm: Callable[[int], nn.Module]
    conditioning: Conditioning
    attention_norm: Callable[[int], nn.Module]
    attend: Callable[[Tensor, int], Tensor]
    """[N, 3C, H, W] and the number of heads to [N, C, H, W]; channels run head, channel of the head, {q, k, v}."""
    clips: bool
    """Whether a block's output is cut at the network's `clip_act`."""

    before_output: Callable[[int, Architecture], nn.Module]
    """What the network's last convolution sees its input through."""
    uncertainty_features: Callable[[int], nn.Module] | None
    """Features that the uncertainty head's linear layer sees; None is no such head."""
    forces_weights: bool
    """Whether training normalises the raw weights before each step."""
