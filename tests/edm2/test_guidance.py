"""Guidance against theory: guided steps, number of evaluations, result."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.guidance import guided, guided_steps
from phema.shared.edm2.sampling.guide_compatibility import GuideMismatch, guide_mismatch
from phema.shared.edm2.sampling.heun import Denoise, SamplerError, heun, sigma_steps
from phema.shared.edm2.sampling.sampler import sample

PUBLISHED = sigma_steps(32)


class Counted:
    """The exact denoiser of data N(mean, std^2), and how often it was asked."""

    def __init__(self, mean: float = 0.0, std: float = 0.5) -> None:
        self.mean, self.std, self.calls = mean, std, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return (self.std**2 * x + sigma**2 * self.mean) / (self.std**2 + sigma**2)


def per_step(main: Denoise, guide: Denoise, weight: float, steps: tuple[bool, ...]) -> list[Denoise]:
    both = guided(main, guide, weight)
    return [both if is_guided else main for is_guided in steps]


@pytest.mark.parametrize(
    ("interval", "first", "last"),
    [((0.19, 1.61), 17, 22), ((0.60, 5.00), 13, 19), ((0.28, 2.90), 15, 21)],
)
def test_published_intervals_are_the_published_steps(interval: tuple[float, float], first: int, last: int) -> None:
    """The ends are printed with two or three digits: 2.90 for the level 2.902 that step 15 starts at."""
    assert [i for i, is_guided in enumerate(guided_steps(PUBLISHED, interval)) if is_guided] == [
        *range(first, last + 1)
    ]


def test_ends_of_the_interval() -> None:
    assert guided_steps(PUBLISHED) == guided_steps(PUBLISHED, (0, math.inf)) == (True,) * 32
    assert guided_steps(PUBLISHED, (0, 0.0005)) == guided_steps(PUBLISHED, (100, math.inf)) == (False,) * 32
    assert guided_steps([4.0, 2.0, 1.0, 0.0], (0, 1.0)) == (False, False, True)
    assert guided_steps([4.0, 2.0, 1.0, 0.0], (1.0, 4.0)) == (True, True, False)
    for interval in ((2.0, 2.0), (3.0, 1.0), (-1.0, 2.0)):
        with pytest.raises(SamplerError, match=r"guidance_interval \(.*\] must rise from at least 0"):
            guided_steps(PUBLISHED, interval)


def test_the_guide_costs_nothing_outside_its_interval() -> None:
    """63 evaluations for 32 steps, and two of the guide for each of the 6 guided ones; the last step has one."""
    for interval, calls in (((0.19, 1.61), 12), (None, 63), ((0.0, 0.004), 3), ((90.0, 100.0), 0)):
        main, guide = Counted(), Counted(0.1)
        steps = per_step(main, guide, 2.0, guided_steps(PUBLISHED, interval))
        heun(steps, torch.zeros(1, 1, 1, 1, dtype=torch.float64), PUBLISHED)
        assert (main.calls, guide.calls) == (63, calls)


@pytest.mark.parametrize("interval", [None, (0.3, 3.0)])
def test_second_order_towards_the_exact_guided_flow(interval: tuple[float, float] | None) -> None:
    """Data N(0, s^2) and guide N(0, g^2): d ln x / d sigma = w sigma / (s^2 + sigma^2) + (1 - w) sigma / (g^2 +
    sigma^2), so that x follows (s^2 + sigma^2)^(w / 2) (g^2 + sigma^2)^((1 - w) / 2) where it is guided."""
    s, g, weight, errors = 0.5, 0.9, 2.5, []

    def ratio(start: float, end: float, w: float) -> float:
        return float(((s**2 + end**2) / (s**2 + start**2)) ** (w / 2)) * float(
            ((g**2 + end**2) / (g**2 + start**2)) ** ((1 - w) / 2)
        )

    for num_steps in (64, 128, 256):
        sigmas = sigma_steps(num_steps, sigma_min=1e-4)
        steps = guided_steps(sigmas, interval)
        levels = sigmas.tolist()
        exact = 80.0 * math.prod(
            ratio(*pair, weight if is_guided else 1.0)
            for *pair, is_guided in zip(levels[:-1], levels[1:], steps, strict=True)
        )
        noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        found = float(heun(per_step(Counted(std=s), Counted(std=g), weight, steps), noise, sigmas))
        errors.append(abs(found / exact - 1))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 2, atol=0.1)
    assert errors[-1] < 1e-3


def draw(denoiser: Denoiser, guide: Denoiser, weight: float, interval: tuple[float, float] | None = None) -> Tensor:
    return sample(denoiser, seeds=range(4), num_steps=6, guide=guide, guidance=weight, guidance_interval=interval)


def test_pictures_change_as_weight_and_interval_say(make_tiny: Callable[..., Denoiser]) -> None:
    main, guide = make_tiny(0), make_tiny(1, model_channels=32)
    unguided = sample(main, seeds=range(4), num_steps=6)
    always = draw(main, guide, 2.0)
    assert torch.equal(draw(main, guide, 1.0, (0.2, 1.6)), unguided)
    assert torch.equal(draw(main, guide, 2.0, (90.0, 100.0)), unguided)
    assert torch.equal(draw(main, guide, 2.0, (0.0, math.inf)), always)
    partly = draw(main, guide, 2.0, (0.05, 5.0))
    assert not torch.allclose(partly, always)
    assert not torch.allclose(partly, unguided)


def test_larger_weights_lead_away_from_the_guide(make_tiny: Callable[..., Denoiser]) -> None:
    main, guide = make_tiny(0), make_tiny(1)
    of_the_guide = draw(main, guide, 0.0)
    torch.testing.assert_close(of_the_guide, sample(guide, seeds=range(4), num_steps=6), rtol=1e-4, atol=1e-4)
    distances = [float((draw(main, guide, weight) - of_the_guide).norm()) for weight in (0.5, 1.0, 1.5, 2.0, 3.0)]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[1]


def test_an_idle_guide_is_left_alone(make_tiny: Callable[..., Denoiser]) -> None:
    main, guide = make_tiny(0), make_tiny(1)
    calls: list[float] = []
    guide.register_forward_pre_hook(lambda _, inputs: calls.append(float(inputs[1])))
    sigmas = sigma_steps(6).tolist()
    draw(main, guide, 2.0, (90.0, 100.0))
    draw(main, guide, 1.0)
    assert calls == []
    draw(main, guide, 2.0, (sigmas[3], sigmas[1]))
    np.testing.assert_allclose(calls, [sigmas[1], sigmas[2], sigmas[2], sigmas[3]], rtol=1e-6)


def test_a_picture_is_the_same_in_any_company_when_churned_and_guided(make_tiny: Callable[..., Denoiser]) -> None:
    main, guide = make_tiny(0), make_tiny(1, label_dim=0, model_channels=32)

    def some(seeds: list[int], batch_size: int = 64) -> Tensor:
        return sample(
            main,
            seeds=seeds,
            num_steps=4,
            churn=2.0,
            churn_max=50.0,
            churn_noise=1.01,
            guide=guide,
            guidance=2.0,
            guidance_interval=(0.01, 10.0),
            batch_size=batch_size,
        )

    everyone = some(list(range(70)))
    for few in ([69, 3], [5], list(range(30, 67))):
        for batch_size in (1, 8):
            assert torch.equal(some(few, batch_size), everyone[few])


def test_who_may_guide_whom(tiny_config: NetworkConfig) -> None:
    def other(**fields: object) -> NetworkConfig:
        return NetworkConfig.model_validate({**tiny_config.model_dump(), **fields})

    assert guide_mismatch(tiny_config, other(label_dim=0, model_channels=32, num_blocks=2)) is None
    assert guide_mismatch(tiny_config, other(label_dim=7)) == GuideMismatch("label_dim", 7, "3 or 0")
    assert guide_mismatch(other(label_dim=0), tiny_config) == GuideMismatch("label_dim", 3, "0")
    assert guide_mismatch(tiny_config, other(img_resolution=16)) == GuideMismatch("img_resolution", 16, "8")
    assert guide_mismatch(tiny_config, other(img_channels=1)) == GuideMismatch("img_channels", 1, "2")
