from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.training.loss import draw_sigma, loss_weight, uncertainty_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_weighted_error_is_one_at_initialisation() -> None:
    """lambda times the mean squared error of data of standard deviation sigma_data, 64 channels."""
    config = NetworkConfig(
        img_resolution=32, img_channels=4, label_dim=10, model_channels=64, channel_mult=(1,), num_blocks=1
    )
    denoiser = build_denoiser(config)
    for p_mean, p_std in ((-0.4, 1.0), (-0.8, 1.6)):
        images = 0.5 * torch.randn(64, 4, 32, 32, generator=generator(1))
        labels = torch.eye(10)[torch.arange(64) % 10]
        out = uncertainty_loss(denoiser, images, labels, p_mean=p_mean, p_std=p_std, generator=generator(2))
        assert float(out.weighted_mse.mean()) == pytest.approx(1.0, abs=0.01)


def test_loss_is_the_formula(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny().double()
    images, labels = 0.5 * torch.randn(5, 2, 8, 8).double(), torch.eye(3)[[0, 1, 2, 1, 0]].double()
    out = uncertainty_loss(denoiser, images, labels, p_mean=-0.8, p_std=1.6, generator=generator())

    g = generator()
    sigma = torch.exp(torch.randn(5, generator=g, dtype=torch.float64) * 1.6 - 0.8)
    noisy = images + sigma[:, None, None, None] * torch.randn(images.shape, generator=g, dtype=torch.float64)
    u = denoiser.logvar(sigma)[:, None, None, None]
    weight = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2)[:, None, None, None]
    error = (denoiser(noisy, sigma, labels) - images) ** 2
    torch.testing.assert_close(out.sigma, sigma)
    torch.testing.assert_close(out.loss, (weight / u.exp() * error + u).sum(dim=(1, 2, 3)))
    torch.testing.assert_close(out.weighted_mse, (weight * error).mean(dim=(1, 2, 3)))
    assert not out.weighted_mse.requires_grad


def test_weight_is_the_inverse_square_of_the_output_scale() -> None:
    sigma = torch.tensor([0.01, 0.5, 20.0])
    c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(loss_weight(sigma, 0.5), c_out**-2)


def test_noise_levels_follow_their_distribution() -> None:
    sigma = draw_sigma(200_000, p_mean=-0.4, p_std=1.0, generator=generator(), like=torch.zeros(1))
    assert float(sigma.median()) == pytest.approx(0.67, abs=0.01)
    low, high = torch.quantile(sigma, torch.tensor([0.025, 0.975])).tolist()
    assert low == pytest.approx(0.094, abs=0.002)
    assert high == pytest.approx(4.8, abs=0.1)


def test_learned_uncertainty_is_the_log_of_the_loss(make_tiny: Callable[..., Denoiser]) -> None:
    """A network that outputs zero on data of standard deviation 1 has a known loss at every noise level."""
    denoiser = make_tiny(awake=False)
    denoiser.unet.requires_grad_(False)
    optimizer = torch.optim.Adam([denoiser.logvar_linear.weight])
    g = generator(3)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step / 30)
        images = torch.randn(32, 2, 8, 8, generator=g)
        optimizer.zero_grad()
        uncertainty_loss(denoiser, images, None, p_mean=-0.4, p_std=1.0, generator=g).loss.sum().div(32).backward()
        optimizer.step()
    sigma = torch.tensor([0.15, 0.3, 0.67, 1.5, 3.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    expected = loss_weight(sigma, 0.5) * ((1 - c_skip) ** 2 + c_skip**2 * sigma**2)
    torch.testing.assert_close(denoiser.logvar(sigma), expected.log(), rtol=0, atol=0.1)


def test_the_loss_trains_every_parameter_the_uncertainty_too(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    images, labels = torch.randn(4, 2, 8, 8), torch.eye(3)[[0, 1, 2, 0]]
    uncertainty_loss(denoiser, images, labels, p_mean=-0.4, p_std=1.0, generator=generator(5)).loss.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in denoiser.parameters())
