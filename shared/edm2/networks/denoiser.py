"""The denoiser: preconditioning around a network (Karras et al. 2022, Table 1; 2024, Appendix B.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from phema.shared.edm2.networks.config import NetworkConfig

Precision = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DenoiserError(ValueError):
    """An input does not have the shape the network was built for."""


class Denoiser(nn.Module):
    """D(x; sigma, class) = c_skip x + c_out F(c_in x; c_noise, class), with the uncertainty head u(sigma).

    `unet` maps (x, c_noise, class_labels) to F. `logvar_fourier` and `logvar_linear` map c_noise to u; configuration A
    has neither. `forces_weights` tells training to call `networks.layers.normalize_weights_` before each step
    (configurations E to G). `precision` applies to the network's activations; parameters, embedding, uncertainty and
    the combination here use the parameters' dtype.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        unet: nn.Module,
        logvar_fourier: nn.Module | None = None,
        logvar_linear: nn.Module | None = None,
        forces_weights: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.config = config
        self.sigma_data = config.sigma_data
        self.precision = precision
        self.forces_weights = forces_weights
        self.unet = unet
        self.logvar_fourier = logvar_fourier
        self.logvar_linear = logvar_linear

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The expected clean pictures [N, C, H, W] given the noisy `x`.

        `sigma` is [N], or a scalar for all pictures (faster). `class_labels` is float one-hot [N, label_dim] or None
        for "no label"; an unconditional network ignores it. Raises DenoiserError.
        """
        self._check(x, class_labels)
        full = self._parameter_dtype()
        x = x.to(full)
        sigma = torch.as_tensor(sigma, dtype=full, device=x.device).reshape(-1, 1, 1, 1)
        total = torch.sqrt(sigma**2 + self.sigma_data**2)
        c_skip = (self.sigma_data / total) ** 2
        c_out = sigma * self.sigma_data / total
        compute = full if self.precision == "float32" else _DTYPES[self.precision]
        f: Tensor = self.unet((x / total).to(compute), _c_noise(sigma), class_labels)
        return c_skip * x + c_out * f.to(full)

    @property
    def has_uncertainty(self) -> bool:
        """Whether there is an uncertainty head."""
        return self.logvar_linear is not None

    def logvar(self, sigma: Tensor) -> Tensor:
        """u(sigma), the logarithm of the expected loss at noise levels [N]. Raises DenoiserError without the head."""
        if self.logvar_fourier is None or self.logvar_linear is None:
            raise DenoiserError(f"configuration {self.config.config} has no uncertainty head")
        u: Tensor = self.logvar_linear(self.logvar_fourier(_c_noise(sigma.to(self._parameter_dtype()))))
        return u.flatten()

    def _parameter_dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.parameters()).dtype
        return dtype

    def _check(self, x: Tensor, class_labels: Tensor | None) -> None:
        config = self.config
        wanted = (config.img_channels, config.img_resolution, config.img_resolution)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted:
            raise DenoiserError(f"x has shape {tuple(x.shape)}; the network takes (N, {', '.join(map(str, wanted))})")
        if class_labels is None or not config.label_dim:
            return
        if class_labels.ndim != 2 or class_labels.shape[1] != config.label_dim:
            raise DenoiserError(
                f"class_labels has shape {tuple(class_labels.shape)}; the network takes one-hot rows "
                f"(N, {config.label_dim})"
            )


def _c_noise(sigma: Tensor) -> Tensor:
    return sigma.flatten().log() / 4
