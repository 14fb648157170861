"""Build the network of a configuration letter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.configurations import CONFIGURATIONS
from phema.shared.edm2.networks.configurations.architecture import Architecture
from phema.shared.edm2.networks.configurations.unet import ConfigurableUNet
from phema.shared.edm2.networks.denoiser import Denoiser, Precision
from phema.shared.edm2.networks.layers import MPConv, MPFourier
from phema.shared.edm2.networks.unet import UNet


def build_denoiser(config: NetworkConfig, *, precision: Precision = "float32") -> Denoiser:
    """A newly initialised denoiser with float32 parameters, drawn from torch's global generator.

    `precision` is that of the activations; use less than float32 on GPUs only.
    """
    return _BUILDERS[config.config](config, precision)


def _configurable(config: NetworkConfig, precision: Precision, *, arch: Architecture) -> Denoiser:
    unet = ConfigurableUNet(config, arch)
    if arch.uncertainty_features is None:
        return Denoiser(config, unet=unet, forces_weights=arch.forces_weights, precision=precision)
    return Denoiser(
        config,
        unet=unet,
        logvar_fourier=arch.uncertainty_features(config.logvar_channels),
        logvar_linear=arch.layer(config.logvar_channels, 1, 0),
        forces_weights=arch.forces_weights,
        precision=precision,
    )


def _config_g(config: NetworkConfig, precision: Precision) -> Denoiser:
    return Denoiser(
        config,
        unet=UNet(config),
        logvar_fourier=MPFourier(config.logvar_channels),
        logvar_linear=MPConv(config.logvar_channels, 1, kernel=0),
        forces_weights=True,
        precision=precision,
    )


_BUILDERS: dict[str, Callable[[NetworkConfig, Precision], Denoiser]] = {
    **{letter: partial(_configurable, arch=arch) for letter, arch in CONFIGURATIONS.items()},
    "G": _config_g,
}
