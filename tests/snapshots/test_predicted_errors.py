"""Predicted errors against measured ones: averages tracked directly beside the stored ones in one real training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch

from phema.shared.edm2.averaging.posthoc import profile_errors, solve
from phema.shared.edm2.averaging.weightings import PowerWeighting
from phema.shared.snapshots.files.header import DTYPE_CODES, StoredDtype
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS, as_float32
from phema.shared.snapshots.planning.basis_plan import StoredBasis, plan_basis
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, Shape
from tests.fixtures.training import BATCH, DECAY_IMAGES, END, TrainedDigits

WANTED = (0.010, 0.012, 0.015, 0.02, 0.03, 0.04, 0.06, 0.075, 0.09, 0.12, 0.15, 0.20, 0.25)
FLOOR = 3e-6
"""Averages tracked in float32 are rounded at every update. Below this error they cannot serve as a reference."""
DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass
class Run:
    """Every `every`-th stored time of the run, as a catalog would hold it."""

    snapshots: list[StoredSnapshot]
    probes: dict[str, bytes]
    values: dict[str, np.ndarray]


def stored_as(trained_digits: TrainedDigits, dtype: StoredDtype, times: int) -> Run:
    every = END // times
    run = Run([], {}, {})
    for (time, width), weights in trained_digits.stored.items():
        if time % every:
            continue
        raw = weights.to(DTYPES[dtype]).contiguous().view(torch.uint8).numpy().tobytes()
        name, values = f"{time}-{width}", as_float32(raw, DTYPE_CODES[dtype])
        run.snapshots.append(StoredSnapshot(name, time, Profile.power(width), name, len(raw), "", dtype))
        run.probes[name] = values[:: max(1, len(values) // PROBE_WEIGHTS)].astype("<f4").tobytes()
        run.values[name] = values.astype(np.float64)
    return run


def measured(trained_digits: TrainedDigits, run: Run, planned: Plan) -> np.ndarray:
    """[outputs] relative distance of the planned combinations from the averages that were tracked."""
    stored = np.stack([run.values[s.id] for s in planned.snapshots])
    errors = []
    for output in planned.outputs:
        wanted = output.profile
        truth = trained_digits.decays[wanted.shape] if wanted.shape else trained_digits.tracked[wanted.sigma_rel or 0.0]
        errors.append(np.linalg.norm(np.array(output.coefficients) @ stored - truth) / np.linalg.norm(truth))
    return np.array(errors)


def predicted(planned: Plan) -> np.ndarray:
    return np.array([output.errors.predicted_error for output in planned.outputs])


PROFILES = [Profile.power(width) for width in WANTED]


@pytest.mark.parametrize("times", [16, 128])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_predictions_hold_and_no_fit_is_worse_than_the_nearest_profile(
    trained_digits: TrainedDigits, dtype: StoredDtype, times: int
) -> None:
    run = stored_as(trained_digits, dtype, times)
    assert len(run.snapshots) == 2 * times
    settings = {"probes": run.probes, "update_images": BATCH}
    aware = plan(run.snapshots, PROFILES, **settings)  # type: ignore[arg-type]
    plain = plan(run.snapshots, PROFILES, regularize=False, **settings)  # type: ignore[arg-type]
    assert aware.calibrated
    errors, nearest = measured(trained_digits, run, aware), measured(trained_digits, run, plain)
    # The reference's own rounding adds to both distances, and not by the same amount.
    assert (errors <= np.hypot(1.05 * nearest, FLOOR)).all()
    for planned, found in ((aware, errors), (plain, nearest)):
        ratio = (predicted(planned) / found)[found > FLOOR]
        assert (ratio > 0.5).all(), ratio
        assert (ratio < 2).all(), ratio
    if (dtype, times) == ("float16", 128):
        short = WANTED.index(0.015)
        assert errors[short] < nearest[short] / 5


@pytest.mark.parametrize("times", [16, 32, 128])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_predictions_hold_for_learning_rate_decays(
    trained_digits: TrainedDigits, dtype: StoredDtype, times: int
) -> None:
    """Against the weights of every step, summed in float64 with the decay's masses."""
    run = stored_as(trained_digits, dtype, times)
    wanted = [Profile(kind="lr_decay", shape=shape, length_images=DECAY_IMAGES) for shape in get_args(Shape)]
    planned = plan(run.snapshots, wanted, probes=run.probes, update_images=BATCH)
    found = measured(trained_digits, run, planned)
    ratio = predicted(planned) / found
    assert ((ratio > 0.5) & (ratio < 2))[found > FLOOR].all(), (ratio, found)


def test_dividing_plain_coefficients_by_their_sum_brings_them_nearer(trained_digits: TrainedDigits) -> None:
    run = stored_as(trained_digits, "float32", 8)
    planned = plan(run.snapshots, PROFILES, regularize=False, probes=run.probes, update_images=BATCH)
    divided = measured(trained_digits, run, planned)
    profiles = [weighting(s.profile, s.num_images) for s in planned.snapshots]
    undivided = solve(profiles, [weighting(p, END) for p in PROFILES]).coefficients
    outputs = [replace(output, coefficients=tuple(row)) for output, row in zip(planned.outputs, undivided, strict=True)]
    before = measured(trained_digits, run, replace(planned, outputs=tuple(outputs)))
    assert (divided <= np.hypot(1.05 * before, FLOOR)).all(), divided / before
    assert divided[-1] < before[-1] / 3


def test_a_plan_reads_only_what_it_needs(trained_digits: TrainedDigits) -> None:
    run = stored_as(trained_digits, "float16", 128)
    all_of_it = plan(run.snapshots, [Profile.power(0.015)], tolerance=1e-9, probes=run.probes)
    rough = plan(run.snapshots, [Profile.power(0.13)], tolerance=0.01, probes=run.probes)
    assert len(rough.snapshots) < len(all_of_it.snapshots) < len(run.snapshots) / 2
    assert predicted(rough)[0] <= 0.01
    assert rough.bytes_to_read == sum(s.size for s in rough.snapshots)


def test_a_basis_stands_for_all_snapshots(trained_digits: TrainedDigits) -> None:
    run = stored_as(trained_digits, "float16", 128)
    found = plan_basis(run.snapshots, sigma_rel_min=0.02, sigma_rel_max=0.25, tolerance=1e-5, probes=run.probes)
    assert len(found.vectors) <= 12
    stored = np.stack([run.values[s.id] for s in found.snapshots])
    vectors = (np.array(found.vectors) @ stored).astype(np.float32).astype(np.float64)
    entries = tuple(
        StoredSnapshot(f"v{k}", END, Profile(kind="basis", index=k), f"v{k}", 4 * vectors.shape[1], "")
        for k in range(len(vectors))
    )
    basis = StoredBasis("basis-1", found, entries)
    inside = [p for p in PROFILES if 0.02 <= (p.sigma_rel or 0) <= 0.25]
    direct = plan(run.snapshots, inside, probes=run.probes)
    quick = plan(run.snapshots, inside, probes=run.probes, bases=[basis])
    assert quick.basis_id == "basis-1"
    assert quick.snapshots == entries
    run.values |= {f"v{k}": vector for k, vector in enumerate(vectors)}
    np.testing.assert_allclose(
        measured(trained_digits, run, quick), measured(trained_digits, run, direct), rtol=0.1, atol=1e-5
    )
    ratio = predicted(quick) / measured(trained_digits, run, quick)
    assert ((ratio > 0.5) & (ratio < 2)).all(), ratio
    beyond = plan(run.snapshots, [Profile.power(0.010)], probes=run.probes, bases=[basis])
    assert beyond.basis_id is None


def test_a_poor_fit_comes_with_advice(trained_digits: TrainedDigits) -> None:
    few = stored_as(trained_digits, "float16", 2)
    [output] = plan(few.snapshots, [Profile.power(0.010)], probes=few.probes).outputs
    assert output.advice is not None
    assert "shorter than every stored average (0.05 is the shortest)" in output.advice
    many = stored_as(trained_digits, "bfloat16", 128)
    [plain] = plan(many.snapshots, [Profile.power(0.010)], regularize=False, probes=many.probes).outputs
    assert plain.advice is not None
    assert "rounding of the bfloat16 snapshots: store a run like this in float32" in plain.advice
    [good] = plan(many.snapshots, [Profile.power(0.13)], probes=many.probes).outputs
    assert good.advice is None


def test_a_coarse_basis_is_for_those_who_allow_it(trained_digits: TrainedDigits) -> None:
    run = stored_as(trained_digits, "float16", 16)
    coarse = plan_basis(run.snapshots, sigma_rel_min=0.02, sigma_rel_max=0.25, tolerance=0.05, probes=run.probes)
    vectors = tuple(
        StoredSnapshot(f"v{k}", END, Profile(kind="basis", index=k), f"v{k}", 1, "") for k in range(len(coarse.vectors))
    )
    basis, wanted = StoredBasis("coarse", coarse, vectors), [Profile.power(0.25)]
    assert plan(run.snapshots, wanted, probes=run.probes, bases=[basis]).basis_id is None
    assert plan(run.snapshots, wanted, probes=run.probes, bases=[basis], tolerance=1e-3).basis_id is None
    allowed = plan(run.snapshots, wanted, probes=run.probes, bases=[basis], tolerance=0.1)
    assert allowed.basis_id == "coarse"
    [output] = allowed.outputs
    combined = np.array(output.coefficients) @ np.array(coarse.vectors)
    profiles = [weighting(s.profile, s.num_images) for s in coarse.snapshots]
    [missed] = profile_errors(profiles, [PowerWeighting(END, 0.25)], combined[None, :])
    assert output.errors.profile_error == pytest.approx(missed)
