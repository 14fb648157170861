"""A promoted model's network as a model of `diffusers`. Needs the extra `vae`, which brings diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from phema.extras import require
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig

require("vae")
from diffusers import ConfigMixin, ModelMixin  # noqa: E402  # after the sentence for a missing package
from diffusers.configuration_utils import register_to_config  # noqa: E402


class PretrainedDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers has no types
    """D(x; sigma) with the methods of diffusers: `from_pretrained` takes the folder of a promoted model.

    `save_pretrained` writes a folder that `phema.load` takes. `denoiser` is the network as `phema.load` returns it, for
    `phema.sample`. `config` is the registered configuration, that of the network is `denoiser.config`.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, network: Mapping[str, Any], model: str | None = None) -> None:
        """`network`: fields of the network's configuration. `model`: `name:version`, for people.

        Raises pydantic.ValidationError for a network that phema cannot build.
        """
        super().__init__()
        denoiser = build_denoiser(NetworkConfig.model_validate(network))
        # Not registered as a submodule: the names of its tensors are those of the file.
        object.__setattr__(self, "denoiser", denoiser)
        for name, child in denoiser.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The expected clean pictures, as `Denoiser.forward`."""
        denoised: Tensor = self.denoiser(x, sigma, class_labels)
        return denoised

    def train(self, mode: bool = True) -> PretrainedDenoiser:
        """Training or evaluation mode, of the network too."""
        self.denoiser.training = mode
        super().train(mode)
        return self
