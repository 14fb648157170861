"""Every magnitude-preserving primitive, over shapes and parameters: unit variance in, unit variance out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from phema.shared.edm2.networks.layers import (
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights_,
)

SAMPLES = 60_000
"""Numbers an output's magnitude is measured over, about: it scatters by 1 / sqrt(2 SAMPLES), 0.3 %."""
quick = settings(max_examples=25, deadline=None, derandomize=True)
channels = st.integers(8, 96)
kernels = st.sampled_from([0, 1, 3])
seeds = st.integers(0, 2**31 - 1)
scales = st.floats(0.3, 100)
balances = st.floats(0.05, 0.95)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def magnitude(x: torch.Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def layer_of(seed: int, c_in: int, c_out: int, kernel: int, scale: float) -> MPConv:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = MPConv(c_in, c_out, kernel).double()
    with torch.no_grad():
        layer.weight.mul_(scale)
    return layer


@quick
@given(seeds, channels, channels, kernels, scales)
def test_convolutions_and_linear_layers(seed: int, c_in: int, c_out: int, kernel: int, scale: float) -> None:
    """Whatever the length of the weights. Padding is left out: beyond the border there is no variance."""
    layer = layer_of(seed, c_in, c_out, kernel, scale)
    n = max(64, SAMPLES // (64 * min(c_in, c_out)))
    x = normal(seed, n, c_in, 10, 10).double() if kernel else normal(seed, 64 * n, c_in).double()
    y = layer(x)
    inner = y[:, :, 1:-1, 1:-1] if kernel else y
    assert magnitude(inner) == pytest.approx(1, abs=0.03)


@quick
@given(seeds)
def test_silu(seed: int) -> None:
    assert magnitude(mp_silu(normal(seed, 4 * SAMPLES))) == pytest.approx(1, abs=0.012)


@quick
@given(seeds, balances)
def test_sum(seed: int, t: float) -> None:
    a, b = normal(seed, 2, SAMPLES)
    y = mp_sum(a, b, t)
    assert magnitude(y) == pytest.approx(1, abs=0.015)
    one, zero = torch.ones(1), torch.zeros(1)
    assert float(mp_sum(zero, one, t) / mp_sum(one, zero, t)) == pytest.approx(t / (1 - t), rel=1e-5)


@quick
@given(seeds, channels, channels, balances)
def test_concatenation(seed: int, c_a: int, c_b: int, t: float) -> None:
    """As a whole; and each part contributes its share of the variance whatever its number of channels."""
    n = 1 + SAMPLES // (64 * min(c_a, c_b))
    a, b = normal(seed, n, c_a, 8, 8), normal(seed + 1, n, c_b, 8, 8)
    y = mp_cat(a, b, t)
    assert y.shape == (n, c_a + c_b, 8, 8)
    assert magnitude(y) == pytest.approx(1, abs=0.015)
    shares = [float(part.square().sum()) for part in y.split([c_a, c_b], dim=1)]
    assert shares[1] / shares[0] == pytest.approx((t / (1 - t)) ** 2, rel=0.05)


@quick
@given(seeds, st.integers(64, 1024))
def test_fourier_features(seed: int, count: int) -> None:
    """In expectation over frequencies and phases, whatever the noise level."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        squares = [MPFourier(count)(normal(seed, 16)).square().mean() for _ in range(SAMPLES // (16 * count) + 1)]
    # 16 values share each frequency: fewer independent numbers than outputs.
    assert float(torch.stack(squares).mean().sqrt()) == pytest.approx(1, abs=5 / math.sqrt(2 * len(squares) * count))


@quick
@given(seeds, channels, scales, st.floats(-3, 3))
def test_pixel_norm(seed: int, c: int, scale: float, offset: float) -> None:
    """Every pixel, whatever its scale and mean."""
    y = normalize(scale * (normal(seed, 4, c, 6, 6).double() + offset), dim=1)
    torch.testing.assert_close(y.square().mean(dim=1).sqrt(), torch.ones(4, 6, 6).double(), rtol=0.05, atol=0)
    rms = scale * (normal(seed, 4, c, 6, 6).double() + offset).square().mean(dim=1).sqrt()
    torch.testing.assert_close(y.square().mean(dim=1).sqrt(), rms / (rms + 1e-4), rtol=1e-9, atol=0)


@quick
@given(seeds, channels, channels, kernels)
def test_gradient_of_weight_normalisation_is_orthogonal_to_the_weight(
    seed: int, c_in: int, c_out: int, kernel: int
) -> None:
    """Beside the 1e-4 that epsilon leaves of the component that normalisation takes away."""
    layer = layer_of(seed, c_in, c_out, kernel, 1.0)
    normalize_weights_(layer)
    x = normal(seed, 3, c_in, 4, 4).double() if kernel else normal(seed, 3, c_in).double()
    y = layer(x)
    target = normal(seed + 1, *y.shape).double()
    ((y - target) ** 2).sum().backward()
    weight, gradient = layer.weight.detach().flatten(1), layer.weight.grad
    assert gradient is not None
    cosine = F.cosine_similarity(weight, gradient.flatten(1), dim=1)
    # What an unnormalised layer's gradient has along the weight: <y, dL/dy> per output channel.
    free = (y * 2 * (y - target)).detach().transpose(0, 1).flatten(1).sum(dim=1)
    radial = (weight * gradient.flatten(1)).sum(dim=1)
    assert (radial.abs() <= 1.01e-4 * free.abs() + 1e-12).all()
    assert float(cosine.abs().max()) < 0.01


@quick
@given(seeds, channels, channels, kernels, scales)
def test_forced_normalisation_is_idempotent_and_changes_no_output(
    seed: int, c_in: int, c_out: int, kernel: int, scale: float
) -> None:
    layer = layer_of(seed, c_in, c_out, kernel, scale)
    x = normal(seed, 3, c_in, 4, 4).double() if kernel else normal(seed, 3, c_in).double()
    before = layer(x)
    normalize_weights_(layer)
    once = layer.weight.detach().clone()
    ones = torch.ones(c_out).double()
    torch.testing.assert_close(once.flatten(1).square().mean(dim=1).sqrt(), ones, rtol=0.02, atol=0)
    normalize_weights_(layer)
    twice = layer.weight.detach().clone()
    torch.testing.assert_close(twice, once, rtol=0.02, atol=0)
    normalize_weights_(layer)
    torch.testing.assert_close(layer.weight.detach(), twice, rtol=2e-4, atol=0)
    torch.testing.assert_close(layer(x), before, rtol=0.03, atol=1e-6)
