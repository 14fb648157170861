"""Small networks of configuration G."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser

TINY = {
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
    "channels_per_head": 16,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_config() -> NetworkConfig:
    """Two levels (8 and 4 pixels), two heads, three classes, 2 channels."""
    return NetworkConfig.model_validate(TINY)


@pytest.fixture
def make_tiny() -> Callable[..., Denoiser]:
    """make_tiny(seed=0, awake=True, **overrides): awake sets every gain, so that conditioning and output matter."""

    def make(seed: int = 0, awake: bool = True, **overrides: object) -> Denoiser:
        torch.manual_seed(seed)
        denoiser = build_denoiser(NetworkConfig.model_validate({**TINY, **overrides}))
        if awake:
            with torch.no_grad():
                for parameter in denoiser.parameters():
                    if parameter.ndim == 0:
                        parameter.fill_(0.4)
        return denoiser

    return make
