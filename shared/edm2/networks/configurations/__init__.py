"""Configurations A to F, each as what it changes from the one before (Karras et al. 2024, Table 1, Figures 16-21).

Configuration G has a file of its own, `phema.shared.edm2.networks.unet`: its state is a published format. What a letter
changes in training rather than in the network stands in `phema.shared.recipes.training_configurations`.
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

# EDM's U-Net ("ADM"), as it trained on latents before the paper.
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

# The loss learns how uncertain it is at each noise level. (No attention at 32 x 32: that is a field of the network.)
B = replace(A, uncertainty_features=FourierFeatures)

# Streamlined: no biases and no shift, a constant input channel in their place; norms that only scale; cosine
# attention; every layer initialised alike; labels of unit magnitude; random Fourier features.
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

# Weights have unit norm per output channel whenever they are used. Activations are clipped from here on: C's grow
# beyond any such limit (Fig. 15).
D = replace(C, layer=MPConv, closing_layer=MPConv, class_layer=MPConv, clips=True)

# Raw weights are brought back to unit magnitude before each step, `networks.layers.normalize_weights_`.
E = replace(D, forces_weights=True)

# No group norms: one pixel norm per encoder block. Resampling moves to the main path; one layer in the noise
# embedding; the output is a convolution alone.
F = replace(E, encoder_block=EncoderBlock, decoder_block=DecoderBlock, noise_layers=1, before_output=nn.Identity)

CONFIGURATIONS = {"A": A, "B": B, "C": C, "D": D, "E": E, "F": F}
