from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import MPConv
from phema.shared.edm2.sampling.guidance import guided
from phema.shared.edm2.sampling.heun import SamplerError, heun, sigma_steps
from phema.shared.edm2.sampling.sampler import sample, sample_batches


class Gaussian:
    """The exact denoiser of data N(mean, std^2), and the exact solution of its probability-flow ODE."""

    def __init__(self, mean: float = 0.3, std: float = 0.5) -> None:
        self.mean, self.std, self.calls = mean, std, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return (self.std**2 * x + sigma**2 * self.mean) / (self.std**2 + sigma**2)

    def solution(self, noise: Tensor, sigma_max: float) -> Tensor:
        return self.mean + (noise * sigma_max - self.mean) * self.std / math.hypot(self.std, sigma_max)


def noise64(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_noise_levels_are_the_published_ones() -> None:
    sigmas = sigma_steps(32, 0.002, 80.0, 7.0)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == 33
    assert float(sigmas[0]) == pytest.approx(80)
    assert float(sigmas[31]) == pytest.approx(0.002)
    assert float(sigmas[32]) == 0
    published = [10.52, 8.28, 6.46, 5.00, 3.83, 2.90, 2.17, 1.61, 1.17, 0.845, 0.598, 0.415, 0.283, 0.189, 0.123]
    np.testing.assert_allclose(sigmas[10:25], published, rtol=4e-3)
    np.testing.assert_allclose(sigmas[25:27], [0.077, 0.047], atol=5e-4)


@pytest.mark.parametrize("num_steps", [2, 18, 32])
def test_number_of_evaluations(num_steps: int) -> None:
    denoise = Gaussian()
    heun(denoise, noise64(1, 1, 2, 2), sigma_steps(num_steps))
    assert denoise.calls == 2 * num_steps - 1


def test_second_order_against_the_exact_solution() -> None:
    """Halving the steps quarters the error; measured where the final Euler step to 0 is negligible."""
    denoise, noise = Gaussian(), noise64(4, 1, 4, 4)
    errors = []
    for num_steps in (32, 64, 128, 256):
        x = heun(denoise, noise, sigma_steps(num_steps, sigma_min=1e-4))
        errors.append(float((x - denoise.solution(noise, 80.0)).abs().max()))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 2, atol=0.15)
    assert errors[-1] < 1e-3


class Linear:
    """The exact denoiser of data N(0, std^2). Everything is linear: along the last axis, x holds the response to each
    unit noise drawn so far, and the sum of their squares is the exact variance of a picture."""

    def __init__(self, draws: int, std: float = 0.5) -> None:
        self.std, self.basis, self.drawn = std, torch.eye(draws + 1, dtype=torch.float64), 0
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(float(sigma))
        return x * self.std**2 / (self.std**2 + sigma**2)

    def randn(self) -> Tensor:
        self.drawn += 1
        return self.basis[self.drawn]

    def std_after(self, sigmas: Tensor, **churn: float) -> float:
        x = heun(self, self.basis[0], sigmas, randn=self.randn, **churn)
        return float(x.square().sum().sqrt())


def test_churn_keeps_the_variance_with_second_order() -> None:
    """Noise added and noise removed balance: the error vanishes like that of the deterministic sampler."""
    for churn in (10.0, 40.0):
        found = [Linear(n).std_after(sigma_steps(n, sigma_min=1e-4), churn=churn) for n in (128, 256, 512)]
        errors = np.abs(np.array(found) - 0.5)
        np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 2, atol=0.1)
        assert errors[-1] < 1e-3


def test_churn_written_out() -> None:
    """Two steps by hand, with more noise than balance needs."""
    sigmas = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    model = Linear(2)
    x = heun(model, model.basis[0], sigmas, churn=0.5, churn_noise=1.1, randn=model.randn)
    exact = Linear(2)
    wanted = exact.basis[0] * 4
    for draw_number, (level, following) in enumerate([(4.0, 1.0), (1.0, 0.0)], start=1):
        raised = level * 1.25
        wanted = wanted + 1.1 * math.sqrt(raised**2 - level**2) * exact.basis[draw_number]
        slope = wanted * raised / (raised**2 + 0.25)
        ahead = wanted + (following - raised) * slope
        if following:
            ahead = wanted + (following - raised) * (slope + ahead * following / (following**2 + 0.25)) / 2
        wanted = ahead
    torch.testing.assert_close(x, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.sigmas, [5.0, 1.0, 1.25])


def test_churn_is_bounded_in_strength_and_in_noise_level() -> None:
    model = Linear(32)
    model.std_after(sigma_steps(32), churn=1e9, churn_min=0.19, churn_max=1.61)
    assert model.drawn == 6
    raised = [sigma for sigma in model.sigmas if 1.61 < sigma < 1.61 * 1.42]
    assert 1.6085714 * math.sqrt(2) in [pytest.approx(sigma, rel=1e-6) for sigma in raised]
    still, plain = Linear(32), Linear(32)
    assert still.std_after(sigma_steps(32), churn=9.0, churn_min=90.0) == plain.std_after(sigma_steps(32))
    with pytest.raises(SamplerError, match="churn 40 adds noise and needs randn"):
        heun(Gaussian(), noise64(1, 1, 1, 1), sigma_steps(4), churn=40)


def test_strong_noise_widens_the_distribution() -> None:
    wide, true = (Linear(128).std_after(sigma_steps(128), churn=20.0, churn_noise=s) for s in (1.05, 1.0))
    assert wide > true + 0.01


def test_guidance_by_formula() -> None:
    x, sigma = noise64(2, 1, 2, 2), torch.tensor(0.7, dtype=torch.float64)
    main, guide = Gaussian(0.3), Gaussian(-1.0, 0.8)
    for weight in (0.0, 0.5, 1.4, 3.0):
        expected = weight * main(x, sigma) + (1 - weight) * guide(x, sigma)
        torch.testing.assert_close(guided(main, guide, weight)(x, sigma), expected, rtol=1e-12, atol=1e-12)
    assert guided(main, guide, 1) is main


def test_guided_gaussian_lands_where_theory_says() -> None:
    """Equal widths, means m and g: the guided flow ends at mean g + w (m - g) with the same width."""
    noise = noise64(4, 1, 4, 4)
    denoise = guided(Gaussian(0.3), Gaussian(-0.2), 2.0)
    x = heun(denoise, noise, sigma_steps(128))
    torch.testing.assert_close(x, Gaussian(0.8).solution(noise, 80.0), rtol=0, atol=2e-3)


def draw(denoiser: Denoiser, seeds: Any, **options: Any) -> Tensor:
    return sample(denoiser, seeds=seeds, num_steps=3, **options)


def test_pictures_depend_on_their_seed_alone(make_tiny: Callable[..., Denoiser]) -> None:
    """Bit for bit: not on the batch size, the order or the company."""
    denoiser = make_tiny()
    seeds = list(range(70))
    reference = draw(denoiser, seeds)
    assert reference.shape == (70, 2, 8, 8)
    assert reference.dtype == torch.float32
    for batch_size in (1, 3, 32, 70):
        assert torch.equal(draw(denoiser, seeds, batch_size=batch_size), reference)
    order = torch.randperm(70).tolist()
    assert torch.equal(draw(denoiser, order), reference[order])
    for few in ([5], [68, 2], list(range(40, 57))):
        assert torch.equal(draw(denoiser, few), reference[few])
    assert not torch.equal(reference[0], reference[1])


def test_large_pictures_too(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny(img_resolution=32, channel_mult=(1, 2, 2), attn_resolutions=(8,))
    reference = draw(denoiser, range(5), churn=2.0)
    assert torch.equal(draw(denoiser, [4, 1], churn=2.0), reference[[4, 1]])


def test_picture_written_out(make_tiny: Callable[..., Denoiser]) -> None:
    """One generator per seed: first the noise, then the class."""
    denoiser = make_tiny().eval()
    generator = torch.Generator().manual_seed(11)
    noise = torch.randn([2, 8, 8], generator=generator)
    label = torch.eye(3)[torch.randint(3, [], generator=generator)]
    with torch.no_grad():
        expected = heun(lambda x, s: denoiser(x, s, label[None]), noise[None], sigma_steps(3))
    torch.testing.assert_close(draw(denoiser, [11]), expected, rtol=1e-4, atol=1e-5)


def test_churn_depends_on_the_seed_and_not_on_how_the_class_was_chosen(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    pictures = draw(denoiser, range(6), churn=2.0)
    assert not torch.allclose(pictures, draw(denoiser, range(6)))
    assert not torch.allclose(pictures, draw(denoiser, range(6), churn=2.0, churn_noise=1.5))
    classes = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        torch.randn([2, 8, 8], generator=generator)
        classes.append(int(torch.randint(3, [], generator=generator)))
    assert torch.equal(draw(denoiser, range(6), churn=2.0, class_labels=classes), pictures)
    assert torch.equal(draw(denoiser, range(6), churn=2.0, churn_min=90.0), draw(denoiser, range(6)))


def test_labels_in_every_form(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    by_index = draw(denoiser, [1, 2, 3], class_labels=[0, 2, 1])
    assert torch.equal(draw(denoiser, [1, 2, 3], class_labels=torch.tensor([0, 2, 1])), by_index)
    assert torch.equal(draw(denoiser, [1, 2, 3], class_labels=torch.eye(3)[[0, 2, 1]]), by_index)
    assert torch.equal(draw(denoiser, [3, 1], class_labels=[1, 0]), by_index[[2, 0]])
    none = draw(denoiser, [1, 2, 3], class_labels=None)
    torch.testing.assert_close(none, draw(denoiser, [1, 2, 3], class_labels=torch.zeros(3, 3)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(none, by_index)
    unconditional = make_tiny(label_dim=0)
    assert torch.equal(draw(unconditional, [1]), draw(unconditional, [1], class_labels=None))


def test_guidance_one_is_no_guidance(make_tiny: Callable[..., Denoiser]) -> None:
    main, guide = make_tiny(0), make_tiny(1, label_dim=0, model_channels=32)
    unguided = draw(main, range(4))
    assert torch.equal(draw(main, range(4), guide=guide, guidance=1.0), unguided)
    assert not torch.allclose(draw(main, range(4), guide=guide, guidance=1.5), unguided)
    torch.testing.assert_close(draw(main, range(4), guide=main, guidance=3.0), unguided, rtol=1e-3, atol=1e-4)


def test_network_is_left_as_it_was(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny(dropout=0.5)
    assert torch.equal(draw(denoiser, [0]), draw(denoiser, [0]))
    assert denoiser.training
    assert denoiser.unet.dec["8x8_up"].training
    assert all(layer._frozen is None for layer in denoiser.modules() if isinstance(layer, MPConv))
    assert denoiser(torch.randn(1, 2, 8, 8), 1.0).requires_grad


def test_batches_come_one_by_one(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    sizes = [len(batch) for batch in sample_batches(denoiser, seeds=range(70), sigmas=sigma_steps(2))]
    assert sizes == [64, 6]
    assert sample(denoiser, seeds=[]).shape == (0, 2, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, r"guidance 2 needs a guide"),
        ({"batch_size": 0}, r"batch_size 0 must be at least 1"),
        ({"class_labels": [0]}, r"class_labels has shape \(1,\) for 2 seeds"),
        ({"class_labels": [0, 3]}, r"class_labels \[0, 3\] must lie between 0 and 2"),
        ({"num_steps": 1}, r"num_steps 1 must be at least 2"),
        ({"sigma_min": 90.0}, r"sigma_min 90 must be above 0 and below sigma_max 80"),
        ({"rho": 0.0}, r"rho 0 must be above 0"),
        ({"churn": -1.0}, r"churn -1 must be at least 0"),
        ({"churn_min": 2.0, "churn_max": 1.0}, r"churn_min 2 must be at least 0 and below churn_max 1"),
        ({"churn_noise": 0.0}, r"churn_noise 0 must be above 0"),
        ({"guidance_interval": (2.0, 1.0)}, r"guidance_interval \(2, 1\] must rise from at least 0 to its upper end"),
    ],
)
def test_bad_requests(make_tiny: Callable[..., Denoiser], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        sample(make_tiny(), seeds=[0, 1], **options)


def test_guides_must_fit(make_tiny: Callable[..., Denoiser]) -> None:
    with pytest.raises(SamplerError, match=r"the guide has img_channels 1; to guide this network it must be 2"):
        sample(make_tiny(), seeds=[0], guide=make_tiny(img_channels=1), guidance=2.0)
    with pytest.raises(SamplerError, match=r"the guide has label_dim 5; to guide this network it must be 3 or 0"):
        sample(make_tiny(), seeds=[0], guide=make_tiny(label_dim=5), guidance=2.0)
