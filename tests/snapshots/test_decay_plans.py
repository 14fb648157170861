"""Plans, bases and forecasts of learning-rate decays and of means over stored times; identities of older profiles."""

from __future__ import annotations

import numpy as np
import pytest

from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis, plan_basis
from phema.shared.snapshots.planning.learning_rate import learning_rate_multipliers
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError
from phema.shared.snapshots.planning.retention import ThinByAge, decide, forecast
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, Shape, TensorProfile
from tests.snapshots.test_retention import pairs

SHAPES: tuple[Shape, ...] = ("linear", "cosine", "1-sqrt", "1-square")


def decay(shape: Shape, length: int = 12_800) -> Profile:
    return Profile(kind="lr_decay", shape=shape, length_images=length)


def test_older_profiles_keep_their_json_and_their_key() -> None:
    """As written by the version without decays."""
    for profile, key, label in (
        (Profile.power(0.1), '{"kind":"power","sigma_rel":0.1}', "0.1"),
        (Profile(kind="uniform", window_images=64), '{"kind":"uniform","window_images":64}', "mean-64"),
        (Profile(kind="raw"), '{"kind":"raw"}', "raw"),
        (
            Profile(kind="exponential", half_life_images=9, rampup_ratio=0.05),
            '{"half_life_images":9,"kind":"exponential","rampup_ratio":0.05}',
            "ema",
        ),
        (
            Profile(kind="sampled", times=(1, 2), weights=(1, 3)),
            '{"kind":"sampled","times":[1,2],"weights":[1.0,3.0]}',
            "sampled",
        ),
    ):
        assert (profile.key, profile.label) == (key, label)
        assert Profile.model_validate(profile.model_dump(mode="json")) == profile
    basis = plan_basis(pairs(8), sigma_rel_min=0.05, sigma_rel_max=0.1, tolerance=1e-2)
    assert "profiles" not in basis.model_dump(mode="json")
    assert "profiles" not in basis.lineage()


def test_new_profiles_are_told_apart() -> None:
    new = [
        *(decay(shape) for shape in SHAPES),
        decay("linear", 6400),
        Profile(kind="lr_decay", shape="linear", start_images=6400),
        Profile(kind="uniform", last_times=2),
        Profile(kind="uniform", times=(1, 2)),
    ]
    assert len({p.key for p in new}) == len({p.label for p in new} - {"mean-of-2-times"}) + 2 == len(new)
    for profile in new:
        assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_length_and_start_are_two_ways_to_say_it() -> None:
    by_start = weighting(Profile(kind="lr_decay", shape="cosine", start_images=60), 100)
    assert weighting(Profile(kind="lr_decay", shape="cosine", length_images=40), 100) == by_start


def test_multipliers_of_sigma_rel() -> None:
    """Figures of the paper's profile: at 90 % of the run 0.85, 0.57, 0.26 for sigma_rel 0.05, 0.10, 0.20."""
    for sigma_rel, wanted in ((0.05, 0.85), (0.10, 0.57), (0.20, 0.26)):
        profile = Profile.power(sigma_rel)
        (found,) = learning_rate_multipliers(profile, 1_000_000, [0.9])
        assert found.num_images == 900_000
        assert profile.gamma is not None
        assert found.multiplier == pytest.approx(1 - 0.9 ** (profile.gamma + 1), rel=1e-13)
        assert found.multiplier == pytest.approx(wanted, abs=5e-3)
    mixed = Profile(
        kind="per_tensor",
        default=Profile.power(0.1),
        tensors=(TensorProfile(pattern="x", profile=Profile(kind="raw")),),
    )
    assert learning_rate_multipliers(mixed, 100) == learning_rate_multipliers(Profile.power(0.1), 100)


@pytest.mark.parametrize("count", [64, 400], ids=["all", "chosen"])
def test_a_plan_makes_the_tail_of_the_decay(count: int) -> None:
    length = 200 * count
    planned = plan(pairs(count), [decay(shape, length) for shape in SHAPES])
    times = np.linspace(0, count * 1000, 5000)
    for output, bound in zip(planned.outputs, (4e-3, 3e-3, 2e-2, 2e-3), strict=True):
        made = sum(
            c * weighting(s.profile, s.num_images).tail(times)
            for c, s in zip(output.coefficients, planned.snapshots, strict=True)
        )
        wanted = weighting(output.profile, planned.num_images).tail(times)
        assert np.linalg.norm(made - wanted) < bound * np.linalg.norm(1 - wanted), output.profile.label
        assert output.errors.predicted_error < 1e-3
        assert (output.errors.profile_error is None) == (output.profile.shape == "1-sqrt")


def raws(count: int) -> list[StoredSnapshot]:
    return [
        StoredSnapshot(f"r{n}", n * 1000, Profile(kind="raw"), f"k/{n}", 100, "0" * 64, "float32")
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [16, 600])
def test_mean_of_the_last_stored_checkpoints_is_exact(count: int) -> None:
    planned = plan(raws(count), [Profile(kind="uniform", last_times=5)])
    (output,) = planned.outputs
    times = tuple(range((count - 4) * 1000, count * 1000 + 1, 1000))
    assert output.profile == Profile(kind="uniform", times=times)
    assert tuple(s.num_images for s in planned.snapshots) == times
    np.testing.assert_allclose(output.coefficients, 0.2, atol=1e-6)
    early = plan(raws(count), [Profile(kind="uniform", last_times=2)], num_images=7000)
    assert early.outputs[0].profile.times == (6000, 7000)
    mixed = plan([*pairs(16), *raws(16)[::4]], [Profile(kind="uniform", last_times=2)], num_images=13_000)
    assert mixed.outputs[0].profile.times == (9000, 13_000), "times of raw weights, where there are any"


def test_last_times_within_a_network() -> None:
    last = Profile(kind="uniform", last_times=2)
    mixed = Profile(kind="per_tensor", default=last, tensors=(TensorProfile(pattern="x", profile=last),))
    (output,) = plan(raws(4), [mixed]).outputs
    assert output.profile.default == output.tensors[0].profile == Profile(kind="uniform", times=(3000, 4000))


def test_mistakes() -> None:
    with pytest.raises(
        PlanError, match="last_times 9 must be at most 4, the number of times that are stored up to then"
    ):
        plan(raws(4), [Profile(kind="uniform", last_times=9)])
    with pytest.raises(ValueError, match="last_times 9 has no meaning without the stored times of a run; give times"):
        weighting(Profile(kind="uniform", last_times=9), 100)
    with pytest.raises(ValueError, match="length_images 200 of the decay must be at most num_images 100"):
        weighting(decay("linear", 200), 100)
    with pytest.raises(ValueError, match="'lr_decay' needs shape, and either length_images or start_images, and no"):
        Profile(kind="lr_decay", shape="linear", start_images=1, length_images=1)


def stored_basis(made: BasisPlan) -> StoredBasis:
    vectors = tuple(
        StoredSnapshot(f"v{i}", made.num_images, Profile(kind="basis", index=i), f"v/{i}", 200, "0" * 64)
        for i in range(len(made.vectors))
    )
    return StoredBasis("basis", made, vectors)


def test_a_basis_may_cover_decays() -> None:
    stored, wanted = pairs(64), [decay(shape) for shape in SHAPES]
    range_ = {"sigma_rel_min": 0.02, "sigma_rel_max": 0.25, "tolerance": 1e-4}
    plain, wider = plan_basis(stored, **range_), plan_basis(stored, **range_, profiles=wanted)
    assert len(plain.vectors) < len(wider.vectors) <= len(plain.vectors) + len(wanted)
    assert BasisPlan.model_validate_json(wider.model_dump_json()) == wider
    restored = BasisPlan.from_lineage(wider.num_images, wider.lineage(), {s.sha256: s.id for s in stored})
    assert restored.profiles == tuple(wanted)
    from_snapshots = plan(stored, wanted)
    by_plain, by_wider = (plan((), wanted, num_images=64_000, bases=[stored_basis(p)]) for p in (plain, wider))
    for best, poor, good in zip(from_snapshots.outputs, by_plain.outputs, by_wider.outputs, strict=True):
        assert good.errors.predicted_error < best.errors.predicted_error + 1.5e-4
        assert poor.errors.predicted_error > 3 * good.errors.predicted_error
    assert plan(stored, wanted, bases=[stored_basis(wider)]).basis_id == "basis"
    assert plan(stored, [decay("linear", 999)], bases=[stored_basis(wider)]).basis_id is None


def test_forecasts_tell_what_decays_lose() -> None:
    stored = pairs(64)
    decision = decide(stored, ThinByAge())
    latest = forecast(decision)[0]
    assert (latest.num_images, latest.decay_images) == (64_000, 12_800)
    for snapshots, errors in ((stored, latest.decays_before), (decision.kept, latest.decays_after)):
        planned = plan(snapshots, [decay(shape) for shape in SHAPES[:3]])
        for output, error in zip(planned.outputs, errors, strict=True):
            assert error == pytest.approx(output.errors.predicted_error, rel=0.021)
    assert all(b < a for a, b in zip(latest.decays_after, latest.decays_before, strict=True) if a and b)
