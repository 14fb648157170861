from __future__ import annotations

import math

import numpy as np
import pytest

from phema.shared.edm2.seeding import iteration_seed, picture_seeds
from phema.shared.edm2.training.learning_rate import learning_rate

S = {"batch_size": 2048, "alpha_ref": 0.01, "t_ref": 70000.0, "rampup_images": 10e6}


def test_first_step_has_rate_zero_and_ramps_up_linearly() -> None:
    assert learning_rate(0, **S) == 0
    assert learning_rate(2.5e6, **S) == pytest.approx(0.0025)
    assert learning_rate(10e6, **S) == pytest.approx(0.01)


def test_rate_decays_with_the_square_root_after_t_ref() -> None:
    reference = 70000 * 2048
    assert learning_rate(reference, **S) == pytest.approx(0.01)
    assert learning_rate(4 * reference, **S) == pytest.approx(0.005)
    assert learning_rate(2**31, **S) == pytest.approx(0.00258, abs=5e-6)


def test_without_ramp_up_or_decay() -> None:
    assert learning_rate(0, batch_size=64, alpha_ref=0.02, t_ref=300, rampup_images=0) == 0.02
    assert learning_rate(10**12, batch_size=64, alpha_ref=0.02, t_ref=math.inf) == 0.02


def test_seeds_are_fixed_for_ever_and_spread() -> None:
    """Written down: a change would break the resume of every run in flight."""
    seeds_now = [iteration_seed(0, 0, 0), iteration_seed(0, 1, 0), iteration_seed(7, 3, 2**31)]
    assert seeds_now == [668734485, 1707678547, 74981737]
    seeds = {iteration_seed(seed, rank, n) for seed in range(5) for rank in range(5) for n in range(0, 64000, 640)}
    assert len(seeds) == 5 * 5 * 100
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_picture_seeds_are_the_same_everywhere_and_never_repeat() -> None:
    positions = np.arange(200_000)
    seeds = picture_seeds(0, positions, "noise")
    assert seeds[:2].tolist() + picture_seeds(0, np.array([2**31]), "noise").tolist() == [
        889713741,
        3280104742,
        3161837254,
    ]
    assert len(np.unique(seeds)) == len(seeds)
    assert seeds.min() >= 0
    assert seeds.max() < 2**32
    bits = (seeds[:, None] >> np.arange(32)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.01
    for other in (picture_seeds(1, positions, "noise"), picture_seeds(0, positions, "latent")):
        assert (other == seeds).mean() < 1e-4
