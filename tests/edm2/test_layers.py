from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phema.shared.edm2.networks.layers import (
    MPConv,
    MPFourier,
    frozen_weights,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights_,
    resample,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def rms(x: torch.Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@pytest.mark.parametrize(("channels_in", "channels_out", "kernel"), [(32, 48, 3), (32, 48, 1), (64, 96, 0)])
def test_layers_preserve_variance(channels_in: int, channels_out: int, kernel: int) -> None:
    layer = MPConv(channels_in, channels_out, kernel)
    x = torch.randn(64, channels_in, 16, 16) if kernel else torch.randn(4096, channels_in)
    y = layer(x)
    if kernel == 3:
        y = y[:, :, 1:-1, 1:-1]  # padding removes inputs at the border
    assert rms(y) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("kernel", "scale"), [(3, 0.01), (3, 50.0), (0, 50.0)])
def test_output_ignores_the_length_of_the_weights(kernel: int, scale: float) -> None:
    layer = MPConv(8, 8, kernel).double()
    x = torch.randn(2, 8, 4, 4).double() if kernel else torch.randn(2, 8).double()
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(scale)
    torch.testing.assert_close(layer(x), before, rtol=0.02, atol=1e-12)


def test_weight_in_use_has_unit_norm_per_output_channel() -> None:
    layer = MPConv(24, 12, 3).double()
    identity = torch.eye(24 * 9).double().reshape(24 * 9, 24, 3, 3)
    used = F.conv2d(identity, layer._normalized(torch.float64, None)).flatten(1)  # [fan-in, out]
    torch.testing.assert_close(used.norm(dim=0), torch.ones(12).double(), rtol=2e-4, atol=0)


def test_gain_multiplies_the_output() -> None:
    layer = MPConv(6, 5, 0).double()
    x = torch.randn(3, 6).double()
    torch.testing.assert_close(layer(x, gain=torch.tensor(0.3).double()), 0.3 * layer(x))


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_gradient_is_tangent_to_the_sphere(kernel: int) -> None:
    """The radial part is what epsilon leaves: 1e-4 of the part that normalisation removes."""
    layer = MPConv(16, 8, kernel).double()
    normalize_weights_(layer)
    x = torch.randn(4, 16, 5, 5).double() if kernel else torch.randn(4, 16).double()
    used = layer._normalized(torch.float64, None).detach().requires_grad_()
    target = torch.randn_like(F.linear(x, used) if used.ndim == 2 else F.conv2d(x, used))

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return ((F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight)) - target).square().sum()

    loss(used).backward()
    loss(layer._normalized(torch.float64, None)).backward()
    assert used.grad is not None
    assert layer.weight.grad is not None
    radial = (layer.weight * layer.weight.grad).flatten(1).sum(dim=1)
    free = (used * used.grad).flatten(1).sum(dim=1)
    assert (radial.abs() <= 1.01e-4 * free.abs() + 1e-12).all()


def test_gradients_are_those_of_finite_differences() -> None:
    layer = MPConv(3, 2, 3).double()
    x = torch.randn(1, 3, 4, 4).double().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()

    def through(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (normalize(x, dim=1),))

    assert torch.autograd.gradcheck(through, (x, weight))


def test_forced_normalisation_is_idempotent() -> None:
    stack = nn.Sequential(MPConv(8, 16, 3), MPConv(16, 4, 1), nn.Linear(4, 4))
    with torch.no_grad():
        stack[0].weight.mul_(7)
    linear = stack[2].weight.clone()
    normalize_weights_(stack)
    once = [layer.weight.clone() for layer in stack]
    for weight in once[:2]:
        torch.testing.assert_close(
            weight.flatten(1).square().mean(1).sqrt(), torch.ones(len(weight)), rtol=0, atol=2e-4
        )
    assert torch.equal(once[2], linear)
    normalize_weights_(stack)
    for layer, before in zip(stack, once, strict=True):
        torch.testing.assert_close(layer.weight, before, rtol=2e-4, atol=1e-7)


def test_forced_normalisation_does_not_change_the_function() -> None:
    layer = MPConv(8, 8, 3).double()
    x = torch.randn(1, 8, 4, 4).double()
    before = layer(x)
    normalize_weights_(layer)
    torch.testing.assert_close(layer(x), before, rtol=3e-4, atol=1e-9)


def test_normalised_pixels_have_unit_magnitude() -> None:
    x = 7 * torch.randn(2, 32, 4, 4) + 3
    y = normalize(x, dim=1)
    torch.testing.assert_close(y.square().mean(dim=1).sqrt(), torch.ones(2, 4, 4), rtol=1e-4, atol=0)
    torch.testing.assert_close(y * x.square().mean(dim=1, keepdim=True).sqrt(), x, rtol=1e-4, atol=0)


def test_normalising_zeros_gives_zeros_with_finite_gradient() -> None:
    x = torch.zeros(2, 4, 1, 1, requires_grad=True)
    normalize(x, dim=1).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not normalize(x, dim=1).any()


def test_silu_has_unit_magnitude() -> None:
    assert rms(mp_silu(torch.randn(2_000_000))) == pytest.approx(1, abs=2e-3)
    assert float(mp_silu(torch.randn(2_000_000)).mean()) == pytest.approx(0.347, abs=2e-3)


def test_sum_preserves_variance_and_weighs_the_branch_by_t() -> None:
    a, b = torch.randn(2, 1_000_000)
    for t in (0.3, 0.5, 0.9):
        assert rms(mp_sum(a, b, t)) == pytest.approx(1, abs=5e-3)
    one, zero = torch.ones(1), torch.zeros(1)
    assert float(mp_sum(one, zero, 0.3)) == pytest.approx(0.9191, abs=5e-5)
    assert float(mp_sum(zero, one, 0.3)) == pytest.approx(0.3939, abs=5e-5)


@pytest.mark.parametrize(("main", "skip", "weights"), [(768, 576, (0.9354, 1.0801)), (384, 192, (0.866, 1.2247))])
def test_concatenation_balances_its_parts(main: int, skip: int, weights: tuple[float, float]) -> None:
    y = mp_cat(torch.ones(1, main, 1, 1), torch.ones(1, skip, 1, 1))
    assert float(y[0, 0, 0, 0]) == pytest.approx(weights[0], abs=5e-5)
    assert float(y[0, -1, 0, 0]) == pytest.approx(weights[1], abs=5e-5)
    a, b = torch.randn(16, main, 8, 8), torch.randn(16, skip, 8, 8)
    y = mp_cat(a, b)
    assert rms(y) == pytest.approx(1, abs=5e-3)
    layer = MPConv(main + skip, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(1)
        from_main = layer(mp_cat(a, torch.zeros_like(b)))
        from_skip = layer(mp_cat(torch.zeros_like(a), b))
    assert rms(from_main) == pytest.approx(rms(from_skip), rel=0.1)


def test_fourier_features_have_unit_magnitude_and_follow_their_formula() -> None:
    fourier = MPFourier(512)
    assert rms(fourier(torch.linspace(-2, 2, 512))) == pytest.approx(1, abs=0.02)
    a = torch.tensor([0.25, -1.0])
    expected = math.sqrt(2) * torch.cos(a[:, None] * fourier.freqs + fourier.phases)
    torch.testing.assert_close(fourier(a), expected)
    assert float(fourier.freqs.std()) == pytest.approx(2 * math.pi, rel=0.1)
    assert 0 <= float(fourier.phases.min()) <= float(fourier.phases.max()) <= 2 * math.pi
    assert not list(fourier.parameters())


def test_resampling_is_a_box() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resample(x, "keep") is x
    down = resample(x, "down")
    assert down.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    up = resample(down, "up")
    assert up[0, 0, :2, :2].unique().tolist() == [2.5]
    torch.testing.assert_close(resample(up, "down"), down)


def test_frozen_weights_are_the_same_weights_and_thaw() -> None:
    layer, x, gain = MPConv(6, 5, 3), torch.randn(2, 6, 4, 4), torch.tensor(0.7)
    with torch.no_grad():
        expected = layer(x, gain=gain)
        with frozen_weights(layer):
            assert torch.equal(layer(x, gain=gain), expected)
            layer.weight.neg_()
            with frozen_weights(layer):
                assert torch.equal(layer(x, gain=gain), -expected)
            assert torch.equal(layer(x, gain=gain), expected)
        assert torch.equal(layer(x, gain=gain), -expected)
