"""Learning-rate decays as averages: weightings, inner products, and runs of SGD that are merged in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from phema.shared.edm2.averaging.decay_shapes import SHAPES
from phema.shared.edm2.averaging.inner_products import inner_product
from phema.shared.edm2.averaging.posthoc import WeightErrorFit, profile_errors
from phema.shared.edm2.averaging.random_walk import RandomWalk, TimeGrid
from phema.shared.edm2.averaging.weightings import (
    DecayWeighting,
    ExponentialWeighting,
    PowerWeighting,
    RawWeighting,
    TimesWeighting,
    UniformWeighting,
    Weighting,
    WeightingError,
)
from phema.shared.snapshots.profile import Shape

END, START = 1000.0, 800.0
MULTIPLIERS = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + np.cos(np.pi * u)) / 2,
    "1-sqrt": lambda u: 1 - u**0.5,
    "1-square": lambda u: 1 - u * u,
}


def test_profiles_name_the_shapes() -> None:
    assert set(get_args(Shape)) == set(SHAPES) == set(MULTIPLIERS)


@pytest.mark.parametrize("shape", MULTIPLIERS)
def test_the_tail_is_the_multiplier_and_the_density_its_slope(shape: str) -> None:
    decay = DecayWeighting(END, START, shape)
    times = np.array([0.0, 500.0, 800.0, 850.0, 900.0, 999.0, 1000.0])
    share = np.clip((times - START) / (END - START), 0, 1)
    np.testing.assert_allclose(decay.tail(times), MULTIPLIERS[shape](share), rtol=1e-13, atol=1e-14)
    for low, high in ((800.0, 900.0), (900.0, 1000.0)):
        area, _ = quad(lambda t: float(decay.density(t)), low, high, epsabs=1e-12)
        assert area == pytest.approx(float(decay.tail(low) - decay.tail(high)), abs=1e-8)
    assert not decay.density(np.array([100.0, 800.0, 1000.1])).any()


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-square"])
@pytest.mark.parametrize(
    "other",
    [
        PowerWeighting(END, 0.05),
        PowerWeighting(900.0, 0.10),
        PowerWeighting(END, 0.002),
        PowerWeighting(END, 0.28),
        ExponentialWeighting(END, 50.0),
        ExponentialWeighting(950.0, 20.0, 0.05),
        UniformWeighting(850.0, 500.0),
        DecayWeighting(END, 300.0, "cosine"),
        DecayWeighting(900.0, 700.0, "1-square"),
    ],
    ids=repr,
)
def test_inner_products_are_integrals(shape: str, other: Weighting) -> None:
    decay = DecayWeighting(END, START, shape)
    low, high = max(START, 0.0), min(END, other.num_images)
    edges = sorted({low, high, *(e for e in (850.0, 900.0, 990.0, 999.0) if low < e < high)})
    pieces = [
        quad(lambda t: float(decay.density(t) * other.density(t)), a, b, epsabs=0, epsrel=1e-12, limit=400)[0]
        for a, b in pairwise(edges)
    ]
    assert inner_product(decay, other) == pytest.approx(sum(pieces), rel=1e-10)
    assert inner_product(other, decay) == pytest.approx(sum(pieces), rel=1e-10)


def test_weightings_without_overlap() -> None:
    assert inner_product(DecayWeighting(END, START, "cosine"), PowerWeighting(700.0, 0.1)) == 0


def test_linear_decay_is_the_mean_over_its_length() -> None:
    decay, mean, ema = DecayWeighting(END, START, "linear"), UniformWeighting(END, 200.0), PowerWeighting(900.0, 0.05)
    times = np.linspace(0, END, 101)
    np.testing.assert_array_equal(decay.tail(times), mean.tail(times))
    assert inner_product(decay, ema) == inner_product(mean, ema)


def test_a_density_without_norm_has_no_profile_error() -> None:
    decay, stored = DecayWeighting(END, START, "1-sqrt"), [PowerWeighting(END, 0.05), PowerWeighting(END, 0.10)]
    with pytest.raises(WeightingError, match="no finite norm"):
        inner_product(decay, stored[0])
    errors = profile_errors(stored, [decay, PowerWeighting(END, 0.07)], np.full((2, 2), 0.5))
    assert np.isnan(errors[0])
    assert errors[1] < 1


def test_mistakes() -> None:
    with pytest.raises(WeightingError, match="shape 'step' is unknown; allowed: linear, cosine, 1-sqrt, 1-square"):
        DecayWeighting(END, START, "step")
    with pytest.raises(WeightingError, match="the decay starts at 1000 images; it must start at 0 or later and before"):
        DecayWeighting(END, END, "linear")
    for times in ((), (5.0, 5.0, END), (5.0, 6.0)):
        with pytest.raises(WeightingError, match="times must rise from above 0 to num_images 1000"):
            TimesWeighting(END, times)


def test_mean_of_times_is_a_staircase_that_raw_weights_make_exactly() -> None:
    mean = TimesWeighting(END, (250.0, 500.0, 1000.0))
    np.testing.assert_allclose(mean.tail([0, 249.9, 250, 499, 500, 999, 1000]), [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    raws = [RawWeighting(t) for t in (250.0, 500.0, 750.0, 1000.0)]
    fit = WeightErrorFit(raws, [mean], movement=RandomWalk(0.02, 0.75, END), noise=np.full(4, 1e-8))
    np.testing.assert_allclose(fit.solve(), [[1 / 3, 1 / 3, 0, 1 / 3]], atol=1e-6)


def tail_error(stored: list[Weighting], shape: str) -> float:
    """Norm of the difference of the tails, relative to what the decay takes from a constant learning rate, 1 - tail."""
    walk = RandomWalk(1.0, 0.0, END)  # every image counts the same
    decay = DecayWeighting(END, START, shape)
    fit = WeightErrorFit(stored, [decay], movement=walk, noise=np.full(len(stored), 1e-9))
    grid = TimeGrid.of(walk, [*stored, decay])
    missed = fit.solve() @ grid.tails(stored) - grid.tails([decay])
    return float(np.sqrt((missed[0] ** 2 @ grid.shares) / ((1 - grid.tails([decay])[0]) ** 2 @ grid.shares)))


@pytest.mark.parametrize(
    ("shape", "averages", "raw"), [("linear", 2.2e-3, 3.9e-2), ("cosine", 7.0e-4, 4.1e-2), ("1-sqrt", 1.26e-2, 4.25e-2)]
)
def test_two_averages_make_a_decay_better_than_raw_checkpoints_of_the_same_bytes(
    shape: str, averages: float, raw: float
) -> None:
    """Decay over the last fifth: 32 times of two EMAs against 64 raw checkpoints."""
    pairs: list[Weighting] = [PowerWeighting(END * i / 32, s) for i in range(1, 33) for s in (0.05, 0.10)]
    checkpoints: list[Weighting] = [RawWeighting(END * i / 64) for i in range(1, 65)]
    assert tail_error(pairs, shape) == pytest.approx(averages, rel=0.03)
    assert tail_error(checkpoints, shape) == pytest.approx(raw, rel=0.03)


STEPS, BATCH = 2560, 4


def sgd() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights before the first step [16], and updates [STEPS, 16] of a logistic regression, in float64."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(16, generator=generator, dtype=torch.float64)
    weights = torch.randn(16, generator=generator, dtype=torch.float64)
    first, updates = weights.clone(), []
    for _ in range(STEPS):
        x = torch.randn(BATCH, 16, generator=generator, dtype=torch.float64)
        y = (x @ truth + torch.randn(BATCH, generator=generator, dtype=torch.float64) > 0).double()
        update = -0.2 * x.T @ (torch.sigmoid(x @ weights) - y) / BATCH
        updates.append(update)
        weights = weights + update
    return first, torch.stack(updates)


@pytest.mark.parametrize("shape", [*MULTIPLIERS, "power"])
def test_merging_a_run_scales_every_update_by_the_tail(shape: str) -> None:
    """Exact for any run: sum by parts. The weights after step i stand for the images of that step."""
    first, updates = sgd()
    total = float(STEPS * BATCH)
    profile = PowerWeighting(total, 0.1) if shape == "power" else DecayWeighting(total, 0.8 * total, shape)
    times = np.arange(STEPS + 1) * float(BATCH)
    tails = torch.from_numpy(profile.tail(times))
    path = first + updates.cumsum(0)
    merged = (tails[:-1] - tails[1:]) @ path
    scaled = first + tails[:-1] @ updates
    torch.testing.assert_close(merged, scaled, rtol=1e-12, atol=1e-12)
    if shape == "power":  # 1 - (tau / t)^(gamma + 1)
        torch.testing.assert_close(
            tails, 1 - torch.from_numpy(times / total) ** (PowerWeighting(total, 0.1).gamma + 1), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(("shape", "bound"), [("linear", 5e-3), ("cosine", 2e-3), ("1-square", 1e-3), ("1-sqrt", 0.03)])
def test_two_stored_averages_make_the_decayed_run(shape: str, bound: float) -> None:
    """The decay reconstructed from 32 times of two EMAs against the updates of the same run scaled one by one.

    Relative to what the decay changes. Both EMAs are tracked in float64, update by update.
    """
    first, updates = sgd()
    path, total = first + updates.cumsum(0), float(STEPS * BATCH)
    steps = np.arange(STEPS + 1) * float(BATCH)
    stored: list[Weighting] = [PowerWeighting(total * i / 32, s) for i in range(1, 33) for s in (0.05, 0.10)]
    averages = torch.stack([torch.from_numpy(-np.diff(w.tail(steps))) @ path for w in stored])
    decay = DecayWeighting(total, 0.8 * total, shape)
    movement = RandomWalk(float(updates.var()) * STEPS, 0.0, total)
    fit = WeightErrorFit(stored, [decay], movement=movement, noise=np.full(64, 1e-9))
    made = torch.from_numpy(fit.solve()[0]) @ averages
    wanted = first + torch.from_numpy(decay.tail(steps[:-1])) @ updates
    assert float((made - wanted).norm() / (wanted - path[-1]).norm()) < bound
