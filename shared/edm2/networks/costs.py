"""The cost of a network: its exact number of parameters, and an estimate of its flops. Torch-free.

One multiply-accumulate is one flop, as in the paper's tables. The estimate counts convolutions, linear layers,
attention, elementwise operations on activations and, from configuration D on, the normalisation of the weights. It is
within 0.7 Gflops of every published figure (Karras et al. 2024, Figures 16-22 and Table 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.topology import BlockPlan, Topology, plan_unet

# Operations per element.
_GROUP_NORM = 4  # square, sum, scale, shift
_PIXEL_NORM = 3  # square, sum, scale
_WEIGHT_NORM = 3  # norm, division, scale


@dataclass(frozen=True)
class Costs:
    """Costs of one network."""

    num_parameters: int
    num_parameters_without_uncertainty: int
    """Without the uncertainty head, which is used in training only."""
    gflops: float
    """Cost of one evaluation of the network on one picture, in 10^9 flops."""

    def training_zettaflops(self, total_images: int) -> float:
        """Cost of a whole training run, in 10^21 flops. The backward pass counts as two forward passes."""
        return 3 * self.gflops * total_images / 1e12


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear layer, and the number of positions of a picture at which it is applied."""

    outputs: int
    fan_in: int
    places: int = 1
    biased: bool = False

    @property
    def weights(self) -> int:
        return self.outputs * self.fan_in

    @property
    def parameters(self) -> int:
        return self.weights + self.outputs * self.biased


def costs(config: NetworkConfig) -> Costs:
    """Costs of a network with this configuration."""
    topology = plan_unet(config)
    letter = config.config
    layers = list(_layers(config, topology))
    parameters = sum(layer.parameters for layer in layers)
    if letter <= "B":  # scale and bias of group norms
        parameters += 2 * sum(_group_norms(topology))
    if letter == "G":  # gains: one per block and one at the output
        parameters += len(topology.encoder) + len(topology.decoder) + 1
    head = 0 if letter == "A" else _Layer(1, config.logvar_channels, biased=letter == "B").parameters
    flops = sum(layer.weights * layer.places for layer in layers)
    flops += _attention_flops(topology) + _elementwise_flops(config, topology)
    if letter >= "D":
        flops += _WEIGHT_NORM * sum(layer.weights for layer in layers)
    return Costs(parameters + head, parameters, flops / 1e9)


def _layers(config: NetworkConfig, topology: Topology) -> Iterator[_Layer]:
    letter = config.config
    biased = letter <= "B"
    constant = 0 if biased else 1
    width, pixels = topology.embedding_channels, config.img_resolution**2
    yield _Layer(width, topology.noise_channels, biased=biased)
    if letter <= "E":
        yield _Layer(width, width, biased=biased)
    if config.label_dim:
        yield _Layer(width, config.label_dim)
    yield _Layer(topology.stem_channels, 9 * (config.img_channels + constant), pixels, biased)
    for plan in topology.encoder:
        # From F on the encoder widens before the residual branch.
        branch = plan.in_channels if letter <= "E" else plan.out_channels
        yield from _block(plan, branch, width, letter)
    for plan in topology.decoder:
        yield from _block(plan, plan.in_channels, width, letter)
    yield _Layer(config.img_channels, 9 * topology.decoder[-1].out_channels, pixels, biased)


def _block(plan: BlockPlan, branch: int, embedding: int, letter: str) -> Iterator[_Layer]:
    biased = letter <= "B"
    width, pixels = plan.out_channels, plan.resolution**2
    yield _Layer(width, 9 * branch, pixels, biased)
    yield _Layer((2 if biased else 1) * width, embedding, biased=biased)  # scale, and shift with the biases
    yield _Layer(width, 9 * width, pixels, biased)
    if plan.in_channels != width:
        yield _Layer(width, plan.in_channels, pixels, biased)
    if plan.attention:
        yield _Layer(3 * width, width, pixels, biased)
        yield _Layer(width, width, pixels, biased)


def _group_norms(topology: Topology) -> Iterator[int]:
    """Channels of every group norm of configurations A and B."""
    for plan in _blocks(topology):
        yield from (plan.in_channels, plan.out_channels)
        if plan.attention:
            yield plan.out_channels
    yield topology.decoder[-1].out_channels


def _attention_flops(topology: Topology) -> int:
    return sum(2 * plan.resolution**4 * plan.out_channels for plan in _blocks(topology) if plan.attention)


def _elementwise_flops(config: NetworkConfig, topology: Topology) -> int:
    letter = config.config
    silu = 2 if letter == "G" else 1  # with its constant
    total = 3 if letter == "G" else 1  # a sum, with the weights of both sides
    flops = 0
    for plan in _blocks(topology):
        elements = plan.out_channels * plan.resolution**2
        entering = plan.in_channels * _input_pixels(plan)
        flops += silu * (entering + elements)
        flops += elements * ((2 if letter <= "B" else 1) + total)  # conditioning and residual sum
        if plan.resampling != "keep":
            flops += entering * (2 if letter <= "E" else 1)  # of both paths, or before they part
        if plan.attention:
            flops += plan.resolution**4 * (plan.out_channels // topology.head_channels)  # softmax
            flops += elements * (total + (_GROUP_NORM if letter <= "B" else 3 * _PIXEL_NORM))
        if letter <= "E":
            flops += _GROUP_NORM * (entering + elements)
        if letter == "G":
            flops += plan.in_channels * plan.resolution**2 * (plan.skip_channels > 0)  # weighted concatenation
        if letter >= "D":
            flops += elements  # clipping
    if letter >= "F":
        flops += sum(_PIXEL_NORM * plan.out_channels * plan.resolution**2 for plan in topology.encoder)
    return flops


def _blocks(topology: Topology) -> tuple[BlockPlan, ...]:
    return topology.encoder + topology.decoder


def _input_pixels(plan: BlockPlan) -> int:
    scale = {"keep": 1.0, "down": 2.0, "up": 0.5}[plan.resampling]
    return int(plan.resolution * scale) ** 2
