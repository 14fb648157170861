"""Plans: snapshots and coefficients, and errors when a plan is impossible. These tests read no weights."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from phema.shared.edm2.averaging.posthoc import solve
from phema.shared.edm2.averaging.weightings import PowerWeighting
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.reconstruction_times import NoSnapshotAtTime, NoSnapshots, PlanError
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import (
    checkpoint_key,
    pictures_key,
    reconstruction_key,
    run_key,
    sha256_of_key,
    snapshot_key,
)


def stored(count: int, every: int = 100) -> list[StoredSnapshot]:
    return [
        StoredSnapshot(f"s{n}-{sigma_rel}", n * every, Profile.power(sigma_rel), f"k/{n}-{sigma_rel}", 1000 + n, "")
        for n in range(1, count + 1)
        for sigma_rel in (0.05, 0.10)
    ]


def widths(values: list[float]) -> list[Profile]:
    return [Profile.power(value) for value in values]


def test_the_latest_time_and_all_that_came_before() -> None:
    snapshots = stored(16)
    planned = plan(list(reversed(snapshots)), wanted=widths([0.13, 0.07]))
    assert planned.num_images == 1600
    assert set(planned.snapshots) <= set(snapshots)
    assert list(planned.snapshots) == sorted(planned.snapshots, key=lambda s: s.order)
    assert [o.profile.sigma_rel for o in planned.outputs] == [0.13, 0.07]
    assert planned.bytes_to_read == sum(s.size for s in planned.snapshots)
    for o in planned.outputs:
        assert len(o.coefficients) == len(planned.snapshots)
        assert math.isclose(sum(o.coefficients), 1, abs_tol=1e-12)
        assert 0 < o.errors.profile_error < 2e-2
        assert math.isclose(o.errors.noise_gain, np.linalg.norm(o.coefficients))


def test_the_coefficients_make_the_wanted_profile() -> None:
    planned = plan(stored(64), wanted=widths([0.13]))
    times = np.linspace(0, planned.num_images, 20_001)[1:]
    made = sum(
        c * PowerWeighting(s.num_images, s.profile.sigma_rel or 0).density(times)
        for c, s in zip(planned.outputs[0].coefficients, planned.snapshots, strict=True)
    )
    wanted = PowerWeighting(planned.num_images, 0.13).density(times)
    error = math.sqrt(((made - wanted) ** 2).mean() / (wanted**2).mean())
    assert math.isclose(error, planned.outputs[0].errors.profile_error, rel_tol=0.05)


def test_plain_coefficients_are_those_of_least_squares_divided_by_their_sum() -> None:
    snapshots, wanted = stored(4), [0.05, 0.13, 0.25]
    planned = plan(snapshots, widths(wanted), regularize=False)
    profiles = [PowerWeighting(s.num_images, s.profile.sigma_rel or 0) for s in snapshots]
    solved = solve(profiles, [PowerWeighting(400, width) for width in wanted]).coefficients
    assert abs(solved[2].sum() - 1) > 1e-2, "undivided they scale the weights"
    assert planned.snapshots == tuple(snapshots)
    for output, coefficients in zip(planned.outputs[1:], solved[1:], strict=True):
        np.testing.assert_allclose(output.coefficients, coefficients / coefficients.sum(), rtol=1e-9)
        assert math.isclose(sum(output.coefficients), 1, abs_tol=1e-12)
    assert planned.outputs[0].coefficients == tuple(float(s.id == "s4-0.05") for s in snapshots)


def test_least_squares_coefficients_without_a_positive_sum_are_refused() -> None:
    negative = Profile(kind="sampled", times=(10, 390, 400), weights=(1000, -999.5, 0))
    assert all(math.isclose(sum(o.coefficients), 1) for o in plan(stored(4), [negative]).outputs)
    with pytest.raises(PlanError, match=r"for profile sampled: its least-squares coefficients sum to -.*; leave it"):
        plan(stored(4), [negative], regularize=False)


def test_a_mixture_is_the_combination_of_its_parts() -> None:
    parts = widths([0.04, 0.07, 0.2])
    mixture = Profile(kind="mixture", profiles=tuple(parts), weights=(3, -2, 1))
    assert Profile.model_validate_json(mixture.model_dump_json()) == mixture
    # Every snapshot is used, so that the coefficients are linear in what is wanted.
    planned = plan(stored(16), [*parts, mixture], tolerance=1e-12)
    rows = np.array([output.coefficients for output in planned.outputs])
    np.testing.assert_allclose(rows[3], np.array([1.5, -1, 0.5]) @ rows[:3], atol=1e-8 * np.abs(rows).max())
    assert planned.outputs[3].errors.predicted_error < 1e-3
    alone = plan(stored(16), [Profile(kind="mixture", profiles=(parts[1],), weights=(5,))])
    assert alone.outputs[0].coefficients == plan(stored(16), [parts[1]]).outputs[0].coefficients
    for kinds, message in (
        ((Profile(kind="raw"),), "profiles of a mixture cannot hold raw; allowed: power, exponential, uniform over"),
        ((mixture,), "profiles of a mixture cannot hold mixture-of-3; allowed: power"),
        ((parts[0], parts[0]), "profiles of a mixture names a profile twice"),
        ((parts[0], parts[1]), "weights has 1 entries, profiles 2; give one for each"),
    ):
        with pytest.raises(ValueError, match=message):
            Profile(kind="mixture", profiles=kinds, weights=(1,))


def test_an_earlier_time_uses_nothing_later() -> None:
    planned = plan(stored(16), num_images=900, wanted=widths([0.08]))
    assert planned.num_images == 900
    assert max(s.num_images for s in planned.snapshots) == 900
    assert planned.bytes_to_read == sum(s.size for s in planned.snapshots) <= sum(2 * (1000 + n) for n in range(1, 10))


def test_a_stored_profile_is_its_snapshot_and_no_other_is_read() -> None:
    planned = plan(stored(16), wanted=widths([0.10, 0.05]))
    assert [(s.num_images, s.profile.sigma_rel) for s in planned.snapshots] == [(1600, 0.05), (1600, 0.10)]
    assert [o.coefficients for o in planned.outputs] == [(0.0, 1.0), (1.0, 0.0)]
    assert [(o.errors.profile_error, o.errors.noise_gain) for o in planned.outputs] == [(0.0, 1.0)] * 2
    assert all(o.errors.predicted_error == o.errors.rounding_error < 1e-7 for o in planned.outputs)
    assert planned.bytes_to_read == 2 * 1016


def test_a_run_without_snapshots() -> None:
    with pytest.raises(NoSnapshots, match=r"^the run has no snapshots yet"):
        plan([], wanted=widths([0.1]))


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        (1, (100, 200, 300, 400)),
        (840, (700, 800, 900, 1000)),
        (850, (700, 800, 900, 1000)),
        (9999, (1300, 1400, 1500, 1600)),
    ],
)
def test_a_time_without_snapshots_names_the_nearest(wanted: int, nearest: tuple[int, ...]) -> None:
    with pytest.raises(NoSnapshotAtTime) as error:
        plan(stored(16), num_images=wanted, wanted=widths([0.1]))
    assert error.value.nearest == nearest
    listed = ", ".join(map(str, nearest))
    assert str(error.value) == f"num_images {wanted} has no snapshot; the nearest are {listed}"


def test_wrong_profiles() -> None:
    with pytest.raises(PlanError, match="sigma_rel is empty"):
        plan(stored(4), wanted=widths([]))
    with pytest.raises(PlanError, match=r"profile 0.1 is named twice"):
        plan(stored(4), wanted=widths([0.1, 0.07, 0.1]))
    for impossible in (0.0, -0.1, 0.3, math.nan, math.inf):
        with pytest.raises(ValidationError, match=r"sigma_rel|finite"):
            Profile.power(impossible)


def test_keys() -> None:
    digest = "0123456789abcdef" * 4
    assert run_key("run-1") == "runs/run-1/run.json"
    key = snapshot_key("run-1", num_images=2**23, label="0.05", sha256=digest)
    assert key == f"runs/run-1/snapshots/000008388608-0.05-{digest}.safetensors"
    assert checkpoint_key("run-1", num_images=5, sha256=digest) == f"runs/run-1/checkpoints/000000000005-{digest}.pt"
    assert reconstruction_key("run-1", "rec-1", "t0") == "runs/run-1/reconstructions/rec-1-t0.safetensors"
    assert pictures_key("eval-1", "t0") == "evaluations/eval-1-t0.png"
    assert sha256_of_key(key) == digest
    assert sha256_of_key("runs/run-1/reconstructions/rec-1-t0.safetensors") is None
    with pytest.raises(ValueError, match="object key"):
        run_key("../../etc")


TORCH_FREE = [
    "phema.shared.snapshots",
    "phema.shared.snapshots.errors",
    "phema.shared.snapshots.files.header",
    "phema.shared.snapshots.stores.object_keys",
    "phema.shared.snapshots.stores.local.store",
    "phema.shared.snapshots.planning.planner",
    "phema.shared.snapshots.files.weight_probe",
    "phema.shared.snapshots.profile",
    "phema.shared.snapshots.stores.s3.store",
    "phema.shared.snapshots.combining.aligned_inputs",
    "phema.shared.snapshots.stores.opening",
    "phema.shared.snapshots.stores.background_uploader",
]


def test_what_the_api_imports_is_free_of_torch() -> None:
    program = f"import sys, {', '.join(TORCH_FREE)}; print(sorted({{'torch', 'ray'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_average_that_holds_initial_weights_says_so() -> None:
    [output] = plan(stored(16), [Profile(kind="exponential", half_life_images=1600)]).outputs
    assert output.advice is not None
    assert "50 % of it lies on the initial weights, which no stored average holds" in output.advice
