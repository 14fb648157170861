"""The network against the plain implementation that the benchmarks compare it with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.plain import plain_denoiser
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import frozen_weights, normalize_weights_
from phema.shared.edm2.training.loss import denoising_loss

CONFIG = NetworkConfig(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    model_channels=16,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=16,
)


@pytest.fixture
def pair() -> tuple[Denoiser, Denoiser]:
    """The optimised network and the plain one with the same weights in float64, gains away from zero."""
    torch.manual_seed(3)
    fast = build_denoiser(CONFIG).double()
    with torch.no_grad():
        for name, parameter in fast.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    plain = plain_denoiser(CONFIG).double()
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = 0.5 * torch.randn([5, 2, 8, 8], dtype=torch.float64)
    labels = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1]]
    return images, labels, torch.tensor([0.1, 0.5, 1.0, 3.0, 20.0], dtype=torch.float64), torch.randn_like(images)


def test_outputs_agree_baked_or_not(pair: tuple[Denoiser, Denoiser]) -> None:
    fast, plain = pair
    images, labels, sigma, noise = inputs()
    noisy = images + noise * sigma[:, None, None, None]
    with torch.no_grad():
        expected = plain.eval()(noisy, sigma, labels)
        torch.testing.assert_close(fast.eval()(noisy, sigma, labels), expected, rtol=1e-8, atol=1e-8)
        with frozen_weights(fast):
            for _ in range(2):
                torch.testing.assert_close(fast(noisy, sigma, labels), expected, rtol=1e-8, atol=1e-8)


def test_gradients_agree(pair: tuple[Denoiser, Denoiser]) -> None:
    fast, plain = pair
    images, labels, sigma, noise = inputs()
    normalize_weights_(fast)
    for denoiser in (fast, plain):
        denoising_loss(denoiser.train(), images, labels, sigma=sigma, noise=noise).loss.sum().backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-8, atol=1e-8, msg=name)
