from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from phema.shared.edm2.averaging.ema import EmaError, PowerFunctionEMA, TraditionalEMA
from phema.shared.edm2.averaging.power_function import PowerFunctionError, gamma_from_sigma_rel, sigma_rel_from_gamma
from phema.shared.edm2.networks.denoiser import Denoiser


def step(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_average_is_the_weighted_sum_of_history(sigma_rel: float) -> None:
    """In float64, against the closed-form integral weights, with batches of changing size."""
    module = nn.Linear(3, 2).double()
    ema = PowerFunctionEMA(module, [sigma_rel])
    history, times = [], [0]
    for i, delta in enumerate([64, 64, 128, 32, 64, 256, 64]):
        step(module, i)
        history.append(module.weight.detach().clone())
        times.append(times[-1] + delta)
        ema.update(times[-1], delta)
    shares = np.diff((np.array(times) / times[-1]) ** (gamma_from_sigma_rel(sigma_rel) + 1))
    expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
    assert ema.tensors(0)["weight"].dtype == torch.float64
    torch.testing.assert_close(ema.tensors(0)["weight"], expected, rtol=1e-12, atol=1e-12)


def test_initial_weights_never_enter(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    ema = PowerFunctionEMA(denoiser, [0.05, 0.2])
    step(denoiser, 0)
    ema.update(64, 64)
    for i in range(2):
        for name, value in denoiser.state_dict().items():
            assert torch.equal(ema.tensors(i)[name], value), name


def test_state_is_complete_and_separate(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    ema = PowerFunctionEMA(denoiser, [0.05, 0.10])
    for i in range(4):
        step(denoiser, i)
        ema.update(64 * (i + 1), 64)
    first, second = ema.tensors(0), ema.tensors(1)
    assert list(first) == list(denoiser.state_dict())
    assert all(t.dtype == torch.float32 for t in first.values())
    name = "unet.out_conv.weight"
    assert not torch.equal(first[name], second[name])
    assert not torch.equal(first[name], denoiser.state_dict()[name])
    assert torch.equal(first["unet.emb_fourier.freqs"], denoiser.unet.emb_fourier.freqs)
    assert not torch.equal(first["unet.out_gain"], denoiser.unet.out_gain)
    denoiser.load_state_dict(first, strict=True)


def test_resume_is_exact(make_tiny: Callable[..., Denoiser], tmp_path: Any) -> None:
    def train(denoiser: Denoiser, ema: PowerFunctionEMA, steps: range) -> None:
        for i in steps:
            step(denoiser, i)
            ema.update(64 * (i + 1), 64)

    straight = make_tiny()
    uninterrupted = PowerFunctionEMA(straight, [0.05, 0.10])
    train(straight, uninterrupted, range(8))

    before = make_tiny()
    interrupted = PowerFunctionEMA(before, [0.05, 0.10])
    train(before, interrupted, range(5))
    torch.save({"net": before.state_dict(), "ema": interrupted.state_dict()}, tmp_path / "checkpoint.pt")

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    after = make_tiny(seed=99)
    after.load_state_dict(saved["net"])
    resumed = PowerFunctionEMA(after, [0.05, 0.10])
    resumed.load_state_dict(saved["ema"])
    train(after, resumed, range(5, 8))
    for i in range(2):
        for name, value in uninterrupted.tensors(i).items():
            assert torch.equal(resumed.tensors(i)[name], value), name


def test_foreign_states_are_refused(make_tiny: Callable[..., Denoiser]) -> None:
    state = PowerFunctionEMA(make_tiny(), [0.05, 0.10]).state_dict()
    with pytest.raises(EmaError, match=r"saved averages have sigma_rel \[0.05, 0.1\], not \[0.05\]"):
        PowerFunctionEMA(make_tiny(), [0.05]).load_state_dict(state)
    with pytest.raises(EmaError, match=r"differ in 'unet\.emb_label\.weight'"):
        PowerFunctionEMA(make_tiny(label_dim=0), [0.05, 0.10]).load_state_dict(state)
    with pytest.raises(EmaError, match=r"unet.emb_label.weight has shape \(32, 3\); the network's is \(32, 4\)"):
        PowerFunctionEMA(make_tiny(label_dim=4), [0.05, 0.10]).load_state_dict(state)


def test_impossible_width_and_time() -> None:
    with pytest.raises(EmaError, match="sigma_rels is empty"):
        PowerFunctionEMA(nn.Linear(1, 1), [])
    with pytest.raises(PowerFunctionError, match=r"sigma_rel 0\.3"):
        PowerFunctionEMA(nn.Linear(1, 1), [0.3])
    with pytest.raises(PowerFunctionError, match="delta_images 128"):
        PowerFunctionEMA(nn.Linear(1, 1), [0.1]).update(64, 128)


@pytest.mark.parametrize(("half_life", "ratio"), [(100.0, None), (100.0, 0.05), (1e9, 0.05)])
def test_traditional_average_is_the_weighted_sum_of_history(half_life: float, ratio: float | None) -> None:
    """In float64, weights multiplied out from the half-life of each step; the initial weights keep what is left."""
    module = nn.Linear(3, 2).double()
    history, shares, num_images = [module.weight.detach().clone()], [1.0], 0
    ema = TraditionalEMA(module, half_life, ratio)
    for i, delta in enumerate([64, 64, 128, 32, 64, 256, 64]):
        step(module, i)
        num_images += delta
        ema.update(num_images, delta)
        current = min(half_life, ratio * num_images) if ratio else half_life
        decay = 2 ** (-delta / current)
        shares = [share * decay for share in shares] + [1 - decay]
        history.append(module.weight.detach().clone())
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
    assert ema.tensors()["weight"].dtype == torch.float64
    torch.testing.assert_close(ema.tensors()["weight"], expected, rtol=1e-12, atol=1e-12)


def test_first_updates_of_the_traditional_average() -> None:
    """With EDM's ramp-up a millionth of the initial weights is left; without, what the half-life says."""
    ramped = TraditionalEMA(nn.Linear(1, 1), 50e6, 0.05)
    assert ramped.decay(4096, 4096) == pytest.approx(2**-20)
    assert ramped.decay(100_000_000, 5_000_000) == pytest.approx(0.5)
    assert ramped.decay(2_000_000_000, 50_000_000) == pytest.approx(0.5)
    assert TraditionalEMA(nn.Linear(1, 1), 50e6).decay(4096, 4096) == pytest.approx(0.5 ** (4096 / 50e6))


def test_ramp_up_is_a_power_function() -> None:
    """A half-life of a share r of the time is the power function of exponent ln 2 / r - 1 (r 0.09: sigma_rel 0.102)."""
    module = nn.Linear(4, 4).double()
    power = PowerFunctionEMA(module, [sigma_rel_from_gamma(np.log(2) / 0.09 - 1)])
    ramped = TraditionalEMA(module, 1e12, 0.09)
    for i in range(400):
        step(module, i)
        power.update(64 * (i + 1), 64)
        ramped.update(64 * (i + 1), 64)
    error = (power.tensors(0)["weight"] - ramped.tensors()["weight"]).norm() / power.tensors(0)["weight"].norm()
    assert float(error) < 0.02


def test_traditional_state_resumes_and_foreign_ones_are_refused(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    ema = TraditionalEMA(denoiser, 1000, 0.05)
    step(denoiser, 0)
    ema.update(64, 64)
    other = make_tiny(seed=9)
    other.load_state_dict(denoiser.state_dict())
    resumed = TraditionalEMA(other, 1000, 0.05)
    resumed.load_state_dict(ema.state_dict())
    for average, module in ((ema, denoiser), (resumed, other)):
        step(module, 1)
        average.update(128, 64)
    assert list(ema.tensors()) == list(denoiser.state_dict())
    for name, value in ema.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name
    with pytest.raises(EmaError, match=r"the saved average has half_life_images 1000, not 2000"):
        TraditionalEMA(denoiser, 2000, 0.05).load_state_dict(ema.state_dict())
    with pytest.raises(EmaError, match=r"the saved average has rampup_ratio 0.05, not None"):
        TraditionalEMA(denoiser, 1000).load_state_dict(ema.state_dict())
    with pytest.raises(EmaError, match=r"differ in 'unet\.emb_label\.weight'"):
        TraditionalEMA(make_tiny(label_dim=0), 1000, 0.05).load_state_dict(ema.state_dict())


def test_impossible_half_life_ramp_up_and_time() -> None:
    with pytest.raises(EmaError, match="half_life_images 0 must be above 0"):
        TraditionalEMA(nn.Linear(1, 1), 0)
    with pytest.raises(EmaError, match="rampup_ratio -1 must be above 0"):
        TraditionalEMA(nn.Linear(1, 1), 10, -1)
    with pytest.raises(EmaError, match=r"rampup_ratio 0\.7 must be above 0 and below ln 2"):
        TraditionalEMA(nn.Linear(1, 1), 10, 0.7)
    with pytest.raises(EmaError, match="delta_images 128"):
        TraditionalEMA(nn.Linear(1, 1), 10).update(64, 128)
