"""Policies: which times they keep, and the errors that remain. Expected errors are for 256 pairs of snapshots."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pytest

from phema.shared.snapshots.planning.basis_plan import StoredBasis, plan_basis
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.retention import (
    COARSEST,
    GRID,
    BasisOnly,
    Decision,
    KeepAll,
    KeepLatest,
    RetentionError,
    ThinByAge,
    decide,
    forecast,
    refusal,
)
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

STORED = (0.05, 0.10)


def pairs(count: int, every: int = 1000) -> list[StoredSnapshot]:
    return [
        StoredSnapshot(f"{time}-{s}", time * every, Profile.power(s), f"k/{time}-{s}", 100, "0" * 64, "float16")
        for time in range(1, count + 1)
        for s in STORED
    ]


def basis_of(stored: list[StoredSnapshot], num_images: int) -> StoredBasis:
    made = plan_basis(stored, num_images=num_images, sigma_rel_min=0.02, sigma_rel_max=0.25, tolerance=1e-4)
    vectors = tuple(
        StoredSnapshot(f"v{i}", num_images, Profile(kind="basis", index=i), f"v/{i}", 200, "0" * 64)
        for i in range(len(made.vectors))
    )
    return StoredBasis(f"basis-{num_images}", made, vectors)


def times(snapshots: tuple[StoredSnapshot, ...]) -> list[int]:
    return sorted({s.num_images // 1000 for s in snapshots})


def misfit(decision: Decision, sigma_rel: float) -> float:
    """Error of the paper's plain least squares."""
    (output,) = plan(decision.kept, [Profile.power(sigma_rel)], regularize=False).outputs
    assert output.errors.profile_error is not None
    return output.errors.profile_error


def test_thinning_by_age_keeps_a_third_and_most_of_the_accuracy() -> None:
    decision = decide(pairs(256), ThinByAge())
    assert len(decision.kept) / 512 == pytest.approx(0.31, abs=0.01)
    assert misfit(decision, 0.13) == pytest.approx(2e-4, rel=0.1)
    assert misfit(decision, 0.20) == pytest.approx(5e-3, rel=0.1)
    assert misfit(decision, 0.015) == pytest.approx(misfit(decide(pairs(256), KeepAll()), 0.015), rel=0.02)


def test_keeping_the_latest_ruins_long_averages() -> None:
    decision = decide(pairs(256), KeepLatest(64))
    assert len(decision.kept) == 128
    assert misfit(decision, 0.20) > 0.2
    assert misfit(decision, 0.25) > 0.4


def test_what_thinning_keeps() -> None:
    kept = times(decide(pairs(64), ThinByAge()).kept)
    assert kept == [1, 8, 16, 24, 32, 36, 40, 44, 48, 50, 52, 54, 56, *range(57, 65)]
    assert times(decide(pairs(64), ThinByAge(coarsest=2)).kept) == [1, *range(2, 33, 2), *range(33, 65)]


@pytest.mark.parametrize("coarsest", COARSEST)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 100, 257])
def test_thinning_again_changes_nothing(coarsest: int, count: int) -> None:
    policy = ThinByAge(coarsest)
    once = decide(pairs(count), policy)
    assert decide(once.kept, policy).dropped == ()
    assert {1, count} <= set(times(once.kept))


def test_thinning_irregular_times_again_changes_nothing() -> None:
    generator = random.Random(0)
    for _ in range(200):
        chosen = sorted(generator.sample(range(1, 2000), generator.randint(2, 80)))
        stored = [StoredSnapshot(str(t), t, Profile.power(0.05), "k", 1, "0" * 64) for t in chosen]
        policy = ThinByAge(generator.choice(COARSEST))
        once = decide(stored, policy)
        assert decide(once.kept, policy).dropped == (), (policy, chosen)
        assert {chosen[0], chosen[-1]} <= {s.num_images for s in once.kept}


def test_thinning_while_a_run_grows_gives_the_same_as_thinning_at_its_end() -> None:
    kept: tuple[StoredSnapshot, ...] = ()
    for count in range(8, 257, 8):
        grown = [*kept, *(s for s in pairs(count) if s.num_images > (count - 8) * 1000)]
        kept = decide(grown, ThinByAge()).kept
    at_once = decide(pairs(256), ThinByAge())
    assert set(times(at_once.kept)) - set(times(kept)) == set()
    assert misfit(Decision(kept, ()), 0.20) < 1.1 * misfit(at_once, 0.20)


def test_held_snapshots_are_kept() -> None:
    stored = pairs(16)
    held = {stored[2].id, stored[9].id}
    decision = decide(stored, KeepLatest(1), held=held)
    assert {s.id for s in decision.kept} == held | {s.id for s in stored[-2:]}
    assert decision.times_lost == tuple(1000 * t for t in range(1, 16) if t not in (2, 5))


def test_the_basis_policy_drops_the_times_before_bases() -> None:
    stored = pairs(16)
    assert times(decide(stored, BasisOnly(), compacted={12_000}).kept) == [12, 13, 14, 15, 16]
    assert times(decide(stored, BasisOnly(), compacted={8_000, 16_000}).kept) == [8, 16]
    assert times(decide(stored, BasisOnly((8_000,)), compacted={8_000, 16_000}).kept) == [8, *range(9, 17)]
    with pytest.raises(RetentionError, match="needs a finished basis and the run has none"):
        decide(stored, BasisOnly())
    with pytest.raises(RetentionError, match="times 9000 has no finished basis; those that have: 8000"):
        decide(stored, BasisOnly((9_000,)), compacted={8_000})


@pytest.mark.parametrize("coarsest", [0, 1, 3, 128])
def test_strides_are_powers_of_two(coarsest: int) -> None:
    with pytest.raises(RetentionError, match=f"coarsest {coarsest} must be one of 2, 4, 8"):
        ThinByAge(coarsest)


def test_a_forecast_is_what_plans_say_before_and_after() -> None:
    stored = pairs(64)
    decision = decide(stored, ThinByAge())
    lines = forecast(decision)
    assert [line.num_images for line in lines] == [64_000, 32_000, 16_000]
    for line in lines:
        wanted = [Profile.power(s) for s in GRID]
        for found, snapshots in ((line.before, stored), (line.after, decision.kept)):
            outputs = plan(snapshots, wanted, num_images=line.num_images).outputs
            for error, output in zip(found, outputs, strict=True):
                # Plans leave snapshots out if the error grows by at most 2 %.
                assert error is not None
                assert 1 - 1e-6 <= output.errors.predicted_error / error <= 1.02
    after, before = lines[0].after[GRID.index(0.2)], lines[0].before[GRID.index(0.2)]
    assert after is not None
    assert before is not None
    assert 1 < after / before < 100


def test_a_time_that_is_lost_has_no_error_afterwards() -> None:
    lines = forecast(decide(pairs(64), KeepLatest(8)), times=(64_000, 30_000))
    assert lines[1].after == (None,) * len(GRID)
    assert None not in lines[1].before
    assert None not in lines[0].after


def test_the_forecast_of_a_compacted_run_is_that_of_its_basis() -> None:
    stored = pairs(64)
    basis = basis_of(stored, 64_000)
    (line,) = forecast(decide(stored, BasisOnly(), compacted={64_000}), times=(64_000,), bases=[basis])
    for sigma_rel, before, after in zip(GRID[1:], line.before[1:], line.after[1:], strict=True):
        assert before is not None
        assert after is not None
        assert after < before + 2e-4, sigma_rel
    assert line.after[0] is not None
    assert line.before[0] is not None
    assert line.after[0] > line.before[0], "0.015 is below the range of the basis"


def test_nothing_to_forecast_without_snapshots() -> None:
    assert forecast(decide([], KeepAll())) == ()
    with pytest.raises(RetentionError, match="at 5 has no snapshot; the nearest time is 1000"):
        forecast(decide(pairs(4), KeepAll()), times=(5,))


def test_keeping_the_latest_is_refused_with_predicted_errors() -> None:
    stored = pairs(64)
    for policy in (KeepAll(), ThinByAge(), KeepLatest(64)):
        decision = decide(stored, policy)
        assert refusal(policy, decision, forecast(decision)) is None
    policy = KeepLatest(16)
    decision = decide(stored, policy)
    lines = forecast(decision)
    sentence = refusal(policy, decision, lines)
    assert sentence is not None
    for sigma_rel in (0.25, 0.2):
        before, after = lines[0].before[GRID.index(sigma_rel)], lines[0].after[GRID.index(sigma_rel)]
        assert f"of sigma_rel {sigma_rel:g} from {before:.1e} to {after:.1e}" in sentence


def test_plans_read_the_basis_where_it_is_as_good_as_what_is_left() -> None:
    stored = pairs(64)
    basis = basis_of(stored, 64_000)
    left = decide(stored, BasisOnly(), compacted={64_000}).kept
    best = plan(stored, [Profile.power(s) for s in (0.13, 0.2)])

    def read(snapshots: list[StoredSnapshot], *sigma_rels: float) -> tuple[str | None, list[float]]:
        planned = plan(snapshots, [Profile.power(s) for s in sigma_rels], num_images=64_000, bases=[basis])
        return planned.basis_id, [output.errors.predicted_error for output in planned.outputs]

    for snapshots in (stored, list(left), []):
        found, errors = read(snapshots, 0.05, 0.1, 0.13, 0.2)
        assert found == basis.id
        for error, output in zip(errors[2:], best.outputs, strict=True):
            assert error < output.errors.predicted_error + 1e-4
    assert read(stored, 0.1) == (None, [pytest.approx(2.1e-4, rel=0.01)]), "a stored profile is its snapshot"
    assert read(stored, 0.015)[0] is None, "beyond the basis, snapshots are better"
    assert read(list(left), 0.015)[0] == basis.id, "but not those that are left"
    with pytest.raises(PlanError, match="only a basis, from which regularize false is impossible"):
        plan([], [Profile.power(0.1)], num_images=64_000, bases=[basis], regularize=False)


class _Unread(dict[str, bytes]):
    """Probes of snapshots that nobody may look at."""

    def get(self, *_: object) -> NoReturn:
        raise AssertionError("a plan looked at the snapshots")


@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_a_basis_that_covers_the_profiles_answers_without_a_look_at_the_snapshots(tolerance: float | None) -> None:
    stored = pairs(64)
    made = basis_of(stored, 64_000)
    basis = replace(made, plan=made.plan.model_copy(update={"calibrated": True}))

    def read(*sigma_rels: float, **options: Any) -> str | None:
        wanted, probes = [Profile.power(s) for s in sigma_rels], _Unread({"1-0.05": b""})
        return plan(stored, wanted, probes=probes, bases=[basis], tolerance=tolerance, **options).basis_id

    assert read(0.13, 0.2) == read(0.05, 0.13) == basis.id
    for outside in (0.015, 0.1):  # beyond its range; a stored profile
        with pytest.raises(AssertionError, match="looked at the snapshots"):
            read(outside)
    with pytest.raises(AssertionError, match="looked at the snapshots"):
        read(0.13, regularize=False)
    few = stored[-4:]  # fewer bytes than the vectors
    assert plan(few, [Profile.power(0.13)], bases=[basis], probes={}).basis_id == basis.id, "more exact"
    with pytest.raises(AssertionError, match="looked at the snapshots"):
        plan(few, [Profile.power(0.13)], bases=[basis], probes=_Unread({"1-0.05": b""}))


def test_a_forecast_uses_the_calibration_of_all_snapshots() -> None:
    """These weights move fifteen times as much as usual, which the one snapshot that is left cannot show."""
    stored = pairs(32)
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((32, 400)) * (15 * 0.02 / 32) ** 0.5, axis=0) + rng.standard_normal(400)
    probes = {s.id: walk[(s.num_images - 1) // 1000].astype("<f4").tobytes() for s in stored}
    [line] = forecast(decide(stored, KeepLatest(1)), sigma_rels=[0.2], times=[32_000], probes=probes)
    [usual] = forecast(decide(stored, KeepLatest(1)), sigma_rels=[0.2], times=[32_000])
    assert line.after[0] is not None
    assert usual.after[0] is not None
    assert line.after[0] > 2 * usual.after[0]
