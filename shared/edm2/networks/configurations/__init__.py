"""Configurations A to F, each defined by its changes to the previous one (Karras et al. 2024, Table 1, Figures 16-21).

`architecture` lists the choices, `unet` builds a network from them, and `config_a`, `config_c` and `config_f` hold the
layers and blocks that these letters introduce. Configuration G is `phema.shared.edm2.networks.unet`. Changes to
training are in `phema.shared.recipes.configuration_letters`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import nn

from phema.shared.edm2.networks.configurations.architecture import Architecture, Conditioning
from phema.shared.edm2.networks.configurations.config_a import (
    ClassTable,
    GroupNorm,
    PositionalFeatures,
    ResidualBlock,
    biased_layer,
    norm_and_silu,
    scale_and_shift,
    softmax_attention,
    unscaled,
    zero_layer,
)
from phema.shared.edm2.networks.configurations.config_c import FourierFeatures, GroupScale, scale, uniform_layer
from phema.shared.edm2.networks.configurations.config_f import DecoderBlock, EncoderBlock
from phema.shared.edm2.networks.layers import MPConv, cosine_attention

# EDM's U-Net ("ADM").
A = Architecture(
    constant_channels=0,
    layer=biased_layer,
    closing_layer=zero_layer,
    noise_features=PositionalFeatures,
    noise_layers=2,
    class_layer=ClassTable,
    label_scale=unscaled,
    encoder_block=ResidualBlock,
    decoder_block=ResidualBlock,
    norm=GroupNorm,
    conditioning=Conditioning(2, scale_and_shift),
    attention_norm=GroupNorm,
    attend=softmax_attention,
    clips=False,
    before_output=norm_and_silu,
    uncertainty_features=None,
    forces_weights=False,
)

# An uncertainty head for the loss. (B also has no attention at 32 x 32, which is a field of the network.)
B = replace(A, uncertainty_features=FourierFeatures)

# Streamlined: a constant input channel instead of biases and shift; norms that only scale; cosine attention; the same
# initialisation of every layer; labels of unit magnitude; random Fourier features.
C = replace(
    B,
    constant_channels=1,
    layer=uniform_layer,
    closing_layer=uniform_layer,
    noise_features=FourierFeatures,
    class_layer=uniform_layer,
    label_scale=math.sqrt,
    norm=GroupScale,
    conditioning=Conditioning(1, scale),
    attention_norm=nn.Identity,
    attend=cosine_attention,
)

# Weights are normalised per output channel on use. Activations are clipped from here on; C's grow beyond the limit
# (Fig. 15).
D = replace(C, layer=MPConv, closing_layer=MPConv, class_layer=MPConv, clips=True)

# Raw weights are scaled to unit magnitude before each step, by `networks.layers.normalize_weights_`.
E = replace(D, forces_weights=True)

# No group norms: one pixel norm per encoder block. Resampling moves to the main path; one layer in the noise
# embedding; the output is a convolution alone.
F = replace(E, encoder_block=EncoderBlock, decoder_block=DecoderBlock, noise_layers=1, before_output=nn.Identity)

CONFIGURATIONS = {"A": A, "B": B, "C": C, "D": D, "E": E, "F": F}
