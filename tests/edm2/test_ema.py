from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.edm2.ema import EmaError, PowerFunctionEMA
from shared.edm2.powerfunction import PowerFunctionError, gamma_from_sigma_rel
from shared.edm2.precond import Denoiser


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
