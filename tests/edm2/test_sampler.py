from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.edm2.layers import MPConv
from shared.edm2.precond import Denoiser
from shared.edm2.sampler import SamplerError, guided, heun, sample, sample_batches, sigma_steps


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


def test_churn_keeps_the_distribution() -> None:
    denoise = Gaussian()
    generator = torch.Generator().manual_seed(1)
    shape = (20000, 1, 1, 1)

    def randn() -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    x = heun(denoise, noise64(*shape), sigma_steps(64), churn=40, churn_min=0.05, churn_max=50, randn=randn)
    assert float(x.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)
    still = heun(denoise, noise64(*shape), sigma_steps(64))
    assert float((x - still).abs().max()) > 0.1
    with pytest.raises(SamplerError, match="churn 40 adds noise and needs randn"):
        heun(denoise, noise64(1, 1, 1, 1), sigma_steps(4), churn=40)


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
    assert sizes == [32, 32, 6]
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
    ],
)
def test_bad_requests(make_tiny: Callable[..., Denoiser], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        sample(make_tiny(), seeds=[0, 1], **options)


def test_guides_must_fit(make_tiny: Callable[..., Denoiser]) -> None:
    with pytest.raises(SamplerError, match=r"the guide makes 1x8x8 pictures, the network 2x8x8"):
        sample(make_tiny(), seeds=[0], guide=make_tiny(img_channels=1), guidance=2.0)
    with pytest.raises(SamplerError, match=r"the guide has label_dim 5, the network 3"):
        sample(make_tiny(), seeds=[0], guide=make_tiny(label_dim=5), guidance=2.0)
