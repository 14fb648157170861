"""Plans of long runs: they consider few of the snapshots, and lose next to nothing."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.planning.basis_plan import plan_basis
from phema.shared.snapshots.planning.calibration import calibrate
from phema.shared.snapshots.planning.candidate_snapshots import MAX_TIMES, candidates
from phema.shared.snapshots.planning.coefficient_fit import CoefficientFit
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

EVERY = 100


def pairs(count: int, dtype: StoredDtype = "float16") -> list[StoredSnapshot]:
    return [
        StoredSnapshot(f"{n}-{width}", n * EVERY, Profile.power(width), f"k/{n}-{width}", 1000, f"{n}-{width}", dtype)
        for n in range(1, count + 1)
        for width in (0.05, 0.10)
    ]


WANTED = [Profile.power(float(width)) for width in np.geomspace(0.01, 0.25, 31)]


def chosen(snapshots: list[StoredSnapshot], wanted: list[Profile]) -> list[StoredSnapshot]:
    return candidates(snapshots, [weighting(profile, snapshots[-1].num_images) for profile in wanted])


def test_every_snapshot_of_a_short_run_is_considered() -> None:
    assert chosen(pairs(MAX_TIMES), WANTED) == pairs(MAX_TIMES)


def test_few_of_a_long_run_are() -> None:
    snapshots = pairs(2000)
    kept = chosen(snapshots, WANTED)
    times = [s.num_images // EVERY for s in kept[::2]]
    assert [s.num_images // EVERY for s in kept[1::2]] == times, "all snapshots of a time, or none"
    assert times == sorted(times)
    assert len(times) < 520
    assert times[-128:] == list(range(1873, 2001)), "all that are near the end"
    assert times[:32] == list(range(1, 33)), "and near the start"
    assert max(b - a for a, b in pairwise(times)) == 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_plan_of_a_long_run_is_as_exact_as_one_from_all_of_it(dtype: StoredDtype) -> None:
    snapshots = pairs(400, dtype)
    end = snapshots[-1].num_images
    wanted = [
        *(Profile.power(width) for width in (0.010, 0.015, 0.03, 0.07, 0.13, 0.20)),
        Profile(kind="exponential", half_life_images=end // 20),
        Profile(kind="uniform", window_images=end // 2),
        Profile(kind="sampled", times=(end // 5, end // 2, end), weights=(1, 3, 2)),
    ]
    fit = CoefficientFit(snapshots, wanted, end, calibrate(snapshots, {}, update_images=10))
    everything = np.arange(len(snapshots))
    best = fit.predicted_errors(fit.least_error_coefficients(everything), everything)
    planned = plan(snapshots, wanted, update_images=10)
    errors = np.array([output.errors.predicted_error for output in planned.outputs])
    assert len(chosen(snapshots, wanted)) < len(snapshots)
    assert (errors <= 1.05 * best + 1e-7).all(), errors / best


def test_planning_a_long_run_takes_little_memory() -> None:
    snapshots = pairs(2000)
    probe = np.random.default_rng(0).standard_normal(4096).astype("<f4").tobytes()
    tracemalloc.start()
    try:
        planned = plan(snapshots, WANTED, probes={s.id: probe for s in snapshots})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(planned.outputs) == len(WANTED)
    assert peak < 130e6


def test_a_basis_of_a_long_run_is_made_of_few_snapshots() -> None:
    snapshots = pairs(600)
    basis = plan_basis(snapshots, sigma_rel_min=0.02, sigma_rel_max=0.2, tolerance=1e-4)
    assert basis.error <= 1e-4
    assert len(basis.snapshots) < 750
    assert basis.num_images == 60_000
