"""The promise of the whole project: averages never stored, rebuilt from stored ones, are the averages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from shared.edm2.ema import PowerFunctionEMA
from shared.edm2.layers import normalize_weights_
from shared.edm2.loss import uncertainty_loss
from shared.edm2.posthoc import PowerProfile, solve
from shared.edm2.precond import Denoiser
from shared.edm2.schedule import learning_rate
from shared.edm2.seeding import iteration_seed

BATCH = 16
STEPS = 320
SNAPSHOTS = 16
STORED = (0.05, 0.10)
NEVER_STORED = (0.055, 0.07, 0.085, 0.12, 0.15)

Weights = dict[str, torch.Tensor]


def copy(tensors: Weights) -> Weights:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def train(denoiser: Denoiser) -> tuple[dict[PowerProfile, Weights], PowerFunctionEMA, float]:
    """Train on digits; snapshots by profile, tracked averages, and the share of the first losses that is left."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.eye(10)[torch.tensor(digits.target)]
    optimizer = torch.optim.Adam(denoiser.parameters(), betas=(0.9, 0.99))
    stored, direct = PowerFunctionEMA(denoiser, STORED), PowerFunctionEMA(denoiser, NEVER_STORED)
    snapshots: dict[PowerProfile, Weights] = {}
    errors = []
    for step in range(STEPS):
        seen = step * BATCH
        generator = torch.Generator().manual_seed(iteration_seed(0, 0, seen))
        batch = torch.randint(len(images), [BATCH], generator=generator)
        rate = learning_rate(seen, batch_size=BATCH, alpha_ref=1e-2, t_ref=100, rampup_images=10 * BATCH)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        normalize_weights_(denoiser)
        out = uncertainty_loss(denoiser, images[batch], labels[batch], p_mean=-0.4, p_std=1.0, generator=generator)
        (out.loss.sum() / BATCH).backward()
        optimizer.step()
        errors.append(float(out.weighted_mse.mean()))
        for ema in (stored, direct):
            ema.update(seen + BATCH, BATCH)
        if (step + 1) % (STEPS // SNAPSHOTS) == 0:
            for i, width in enumerate(STORED):
                snapshots[PowerProfile(seen + BATCH, width)] = copy(stored.tensors(i))
    return snapshots, direct, float(np.mean(errors[-80:]) / np.mean(errors[:5]))


@pytest.fixture
def training(make_tiny: Callable[..., Denoiser]) -> tuple[dict[PowerProfile, Weights], PowerFunctionEMA, float]:
    return train(make_tiny(awake=False, img_channels=1, label_dim=10, model_channels=8))


def combine(coefficients: np.ndarray, snapshots: list[Weights], name: str) -> torch.Tensor:
    return sum((float(c) * s[name].double() for c, s in zip(coefficients, snapshots, strict=True)), torch.tensor(0.0))


def test_rebuilt_averages_are_the_tracked_ones(
    training: tuple[dict[PowerProfile, Weights], PowerFunctionEMA, float],
) -> None:
    snapshots, direct, loss_left = training
    assert loss_left < 0.5, "the network did not learn, so its averages would prove nothing"
    assert len(snapshots) == 2 * SNAPSHOTS
    targets = [PowerProfile(STEPS * BATCH, width) for width in NEVER_STORED]
    solution = solve(list(snapshots), targets)
    names = list(direct.state_dict()["averages"][0])
    nearest_stored = [min(STORED, key=lambda s: abs(s - width)) for width in NEVER_STORED]
    for i, width in enumerate(NEVER_STORED):
        error = reference = substitute = 0.0
        for name in names:
            wanted = direct.tensors(i)[name].double()
            rebuilt = combine(solution.coefficients[i], list(snapshots.values()), name)
            other = snapshots[PowerProfile(STEPS * BATCH, nearest_stored[i])][name].double()
            error += float((rebuilt - wanted).square().sum())
            substitute += float((other - wanted).square().sum())
            reference += float(wanted.square().sum())
        relative = (error / reference) ** 0.5
        assert relative < 1e-2, (width, relative)
        assert relative < 0.2 * (substitute / reference) ** 0.5, "no better than the nearest stored average"
