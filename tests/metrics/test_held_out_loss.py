"""Held-out loss by noise level: the mean over levels is the total, and the error is that over pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from phema.shared.datasets import InMemory
from phema.shared.datasets.digits import load_digits
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import frozen_weights
from phema.shared.metrics.figures import blocks, difference
from phema.shared.metrics.held_out_loss import NUM_LEVELS, measure, sigma_grid
from phema.shared.recipes.presets import resolve

CONFIG = resolve("digits-tiny", {"network": {"model_channels": 16, "channels_per_head": 16}})
PICTURES = load_digits(held_out=100).held_out


def network(gain: float) -> Denoiser:
    torch.manual_seed(3)
    made = build_denoiser(CONFIG.network)
    with torch.no_grad():
        made.unet.out_gain.fill_(gain)
    return made.eval()


@torch.inference_mode()
def losses(denoiser: Denoiser) -> np.ndarray:
    """[pictures, levels], written out. Noise is drawn picture by picture from one generator for each level."""
    images, numbers = PICTURES.batch(np.arange(len(PICTURES)))
    clean, labels = torch.from_numpy(images), one_hot(torch.from_numpy(numbers), 10).float()
    found = []
    for level, sigma in enumerate(sigma_grid(CONFIG.p_mean, CONFIG.p_std)):
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(297 + level))
        with frozen_weights(denoiser):
            error = (denoiser(clean + noise * sigma, sigma, labels) - clean).double()
        weight = (sigma**2 + denoiser.sigma_data**2) / (sigma * denoiser.sigma_data) ** 2
        found.append(weight * error.square().mean(dim=(1, 2, 3)).numpy())
    return np.stack(found, axis=1)


def test_figures_are_means_over_pictures_and_levels() -> None:
    denoiser = network(0.5)
    expected = losses(denoiser)
    found = measure(denoiser, PICTURES, p_mean=CONFIG.p_mean, p_std=CONFIG.p_std, batch_size=100)
    assert found["held_out_loss"].value == pytest.approx(expected.mean(), rel=1e-12)
    by_level = [found[f"held_out_loss_level_{level}"].value for level in range(1, NUM_LEVELS + 1)]
    assert by_level == pytest.approx(expected.mean(axis=0).tolist(), rel=1e-12)
    without = np.delete(expected, blocks(100)[3], axis=0).mean()
    assert found["held_out_loss"].replicates[3] == pytest.approx(without, rel=1e-12)
    assert found["held_out_loss"].standard_error == pytest.approx(expected.mean(1).std(ddof=1) / 10, rel=0.35)


def test_two_networks_are_compared_on_the_same_noise() -> None:
    options = {"p_mean": CONFIG.p_mean, "p_std": CONFIG.p_std, "batch_size": 100}
    a, b = (measure(network(gain), PICTURES, **options)["held_out_loss"] for gain in (0.5, 0.52))  # type: ignore[arg-type]
    value, error = difference(a, b)
    assert value == a.value - b.value
    assert error is not None
    assert a.standard_error is not None
    assert error < a.standard_error / 2


def test_three_pictures_have_no_error() -> None:
    images, numbers = PICTURES.batch(np.arange(3))
    found = measure(network(0.5), InMemory(images, numbers), p_mean=-0.4, p_std=1.0, batch_size=2)
    assert found["held_out_loss"].standard_error is None
