"""Networks by configuration letter: the one place that knows which modules a letter stands for."""

from __future__ import annotations

from collections.abc import Callable

from shared.edm2.config import NetworkConfig
from shared.edm2.layers import MPConv, MPFourier
from shared.edm2.precond import Denoiser, Precision
from shared.edm2.unet import UNet


def build_denoiser(config: NetworkConfig, *, precision: Precision = "float32") -> Denoiser:
    """A freshly initialised denoiser, its parameters float32, drawn from torch's global generator.

    `precision` is that of the activations; below float32 it is meant for GPUs.
    """
    return _BUILDERS[config.config](config, precision)


def _config_g(config: NetworkConfig, precision: Precision) -> Denoiser:
    return Denoiser(
        config,
        unet=UNet(config),
        logvar_fourier=MPFourier(config.logvar_channels),
        logvar_linear=MPConv(config.logvar_channels, 1, kernel=0),
        precision=precision,
    )


_BUILDERS: dict[str, Callable[[NetworkConfig, Precision], Denoiser]] = {"G": _config_g}
