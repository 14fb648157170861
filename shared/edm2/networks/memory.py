"""The memory that training a network takes, estimated from its configuration. Torch-free."""

from __future__ import annotations

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.topology import BlockPlan, plan_unet

_PER_OUTPUT, _PER_INPUT, _PER_ATTENTION = 6.7, 0.7, 9.0
"""Numbers kept for the backward pass per element of a block's output, of its input, and of the output of a block with
attention. Fitted to what PyTorch keeps for networks of configuration G from 8 x 8 to 64 x 64 pixels."""


def activations_per_picture(config: NetworkConfig) -> int:
    """Numbers that the backward pass of one picture keeps. Within 5 % for configuration G."""
    topology = plan_unet(config)
    total = 0.0
    for block in topology.encoder + topology.decoder:
        output = block.out_channels * block.resolution**2
        total += (_PER_OUTPUT + _PER_ATTENTION * block.attention) * output
        total += _PER_INPUT * block.in_channels * _input_side(block) ** 2
    return round(total)


def training_bytes(
    config: NetworkConfig, num_parameters: int, *, microbatch: int, averages: int, half_precision: bool
) -> int:
    """Bytes of weights, gradients, both moments of Adam, averages and activations of one worker.

    `microbatch`: pictures that the worker processes at once. The memory of PyTorch itself, several hundred MB, is not
    included.
    """
    # One copy of the weights, normalised, is made in each step.
    weights = 4 * num_parameters * (5 + averages)
    activations = (2 if half_precision else 4) * microbatch * activations_per_picture(config)
    return weights + activations


def _input_side(block: BlockPlan) -> int:
    return int(block.resolution * {"keep": 1.0, "down": 2.0, "up": 0.5}[block.resampling])
