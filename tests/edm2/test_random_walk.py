"""Fits of least expected weight error, on simulated random walks, whose parameters are known."""

from __future__ import annotations

import numpy as np
import pytest

from phema.shared.edm2.averaging.basis import expected_products, find_basis
from phema.shared.edm2.averaging.posthoc import PosthocError, WeightErrorFit, profile_errors, solve
from phema.shared.edm2.averaging.random_walk import RandomWalk, fit_random_walk
from phema.shared.edm2.averaging.weightings import ExponentialWeighting, PowerWeighting, RawWeighting, Weighting

END, STEPS = 6400, 3200
TARGETS = [PowerWeighting(END, s) for s in (0.015, 0.03, 0.07, 0.13, 0.2, 0.25)]


def walks(movement: RandomWalk, weights: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times and [times, weights] random walks from starts that are no part of the movement."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, END, STEPS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    rate = movement.variance * (middle / END + 1e-4) ** -movement.exponent * np.diff(edges) / END
    steps = rng.standard_normal((STEPS, weights)) * np.sqrt(rate)[:, None]
    return edges[1:], rng.standard_normal(weights) * 5 + np.cumsum(steps, axis=0)


def averaged(profiles: list[Weighting], times: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """[profiles, weights]: each profile's mass between two times weighs the path there, what is left the start."""
    before = np.concatenate([[0.0], times[:-1]])
    mass = np.stack([p.tail(before) - p.tail(times) for p in profiles])
    mass[:, 0] += 1 - mass.sum(axis=1)
    return mass @ paths


def snapshots(count: int = 32) -> list[Weighting]:
    return [PowerWeighting(END * i // count, s) for i in range(1, count + 1) for s in (0.05, 0.10)]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_movement_is_found(exponent: float, noise: float) -> None:
    true = RandomWalk(0.04, exponent, END)
    profiles = snapshots()
    values = averaged(profiles, *walks(true, 2000))
    values += np.random.default_rng(1).standard_normal(values.shape) * noise
    found = fit_random_walk(profiles, values, np.full(len(profiles), noise))
    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=0.26)
    assert found.variance == pytest.approx(0.04, rel=0.35)


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 1e-2])
def test_errors_are_the_expected_ones_and_smaller_than_those_of_the_nearest_profiles(noise: float) -> None:
    movement = RandomWalk(0.04, 0.5, END)
    profiles = snapshots()
    times, paths = walks(movement, 1500)
    rounded = averaged(profiles, times, paths)
    rounded += np.random.default_rng(1).standard_normal(rounded.shape) * noise
    wanted = averaged(TARGETS, times, paths)
    problem = WeightErrorFit(profiles, TARGETS, movement=movement, noise=np.full(len(profiles), noise))
    rms = float(np.sqrt(np.mean(wanted**2)))

    def measured(coefficients: np.ndarray) -> np.ndarray:
        return np.sqrt(((coefficients @ rounded - wanted) ** 2).mean(axis=1))

    aware, plain = problem.solve(), solve(profiles, TARGETS).coefficients
    np.testing.assert_allclose(aware.sum(axis=1), 1, atol=1e-9)
    assert (measured(aware) <= measured(plain) * 1.03).all()
    for coefficients in (aware, plain):
        expected = problem.expected(coefficients, rms=rms)
        np.testing.assert_allclose(np.hypot(expected.movement, expected.rounding), measured(coefficients), rtol=0.15)


def test_no_other_combination_is_expected_to_be_better() -> None:
    noise = np.full(64, 1e-3)
    problem = WeightErrorFit(snapshots(), TARGETS, movement=RandomWalk(0.04, 0.5, END), noise=noise)
    best = problem.solve()

    def total(coefficients: np.ndarray) -> np.ndarray:
        expected = problem.expected(coefficients, rms=1.0)
        return expected.movement**2 + expected.rounding**2

    rng = np.random.default_rng(0)
    for _ in range(30):
        change = rng.standard_normal(best.shape) * 1e-3
        change -= change.mean(axis=1, keepdims=True)
        assert (total(best + change) > total(best)).all()


def test_checkpoints_traditional_averages_and_power_functions_mix() -> None:
    movement = RandomWalk(0.04, 0.5, END)
    mixed: list[Weighting] = []
    for i in range(1, 17):
        time = END * i // 16
        mixed += [RawWeighting(time), ExponentialWeighting(time, 200), PowerWeighting(time, 0.1)]
    times, paths = walks(movement, 1500)
    stored, wanted = averaged(mixed, times, paths), averaged(TARGETS, times, paths)
    problem = WeightErrorFit(mixed, TARGETS, movement=movement, noise=np.full(len(mixed), 1e-6))
    coefficients = problem.solve()
    measured = np.sqrt(((coefficients @ stored - wanted) ** 2).mean(axis=1))
    np.testing.assert_allclose(problem.expected(coefficients, rms=1.0).movement, measured, rtol=0.2)
    errors = profile_errors(mixed, TARGETS, coefficients)
    assert np.isnan(errors).all()


def test_too_little_to_tell() -> None:
    assert fit_random_walk(snapshots(1), np.zeros((2, 100)), np.ones(2)) is None
    with pytest.raises(PosthocError, match="0 stored profiles and 6 targets"):
        WeightErrorFit([], TARGETS, movement=RandomWalk(1, 0, END), noise=np.zeros(0))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_a_basis_loses_no_more_than_it_says(tolerance: float) -> None:
    movement, profiles = RandomWalk(0.04, 0.5, END), snapshots(64)
    noise = np.full(len(profiles), 1e-4)
    family: list[Weighting] = [PowerWeighting(END, float(s)) for s in np.geomspace(0.02, 0.25, 40)]
    between: list[Weighting] = [PowerWeighting(END, float(s)) for s in np.geomspace(0.0205, 0.249, 33)]
    products = expected_products(profiles, movement=movement, noise=noise, rms=1.0)
    basis = find_basis(WeightErrorFit(profiles, family, movement=movement, noise=noise).solve(), products, tolerance)
    assert 3 <= len(basis.vectors) <= 12
    assert basis.error <= tolerance
    np.testing.assert_allclose(basis.vectors @ products @ basis.vectors.T, np.eye(len(basis.vectors)), atol=1e-6)
    coefficients = WeightErrorFit(profiles, between, movement=movement, noise=noise).solve()
    projected = basis.project(coefficients)
    missed = coefficients - basis.combined(projected)
    lost = np.sqrt(np.maximum(np.einsum("kn,nm,km->k", missed, products, missed), 0.0))
    assert (lost <= 1.2 * tolerance).all()
    times, paths = walks(movement, 400)
    stored = averaged(profiles, times, paths)
    difference = coefficients @ stored - projected @ (basis.vectors @ stored)
    rms = np.sqrt((difference**2).mean(axis=1))
    assert (rms <= 7 * np.maximum(lost, 1e-7)).all(), "starts of size 5 enter as what all averages share"


def test_a_basis_needs_a_tolerance() -> None:
    with pytest.raises(ValueError, match="tolerance 0 must be above 0"):
        find_basis(np.eye(2), np.eye(2), 0)
