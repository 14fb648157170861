"""Evaluations are compared only if they differ in nothing but what is studied."""

from __future__ import annotations

import pytest

from phema.shared.analyses.evaluated_points import GuideWeights
from phema.shared.analyses.kinds import ANALYSES, analyse
from phema.shared.analyses.selection import NothingToShow, select
from phema.shared.snapshots.profile import Profile, TensorProfile
from tests.analyses.points import point

GUIDE = GuideWeights("small", 3200, Profile.power(0.1))
LENGTH = frozenset({"sigma_rel"})


def test_the_largest_comparable_group_is_kept() -> None:
    many = [point(s, s, num_steps=12) for s in (0.05, 0.1, 0.2)]
    few = [point(s, s, num_steps=32) for s in (0.05, 0.1)]
    earlier = [point(0.05, 1.0, num_images=3200)]
    chosen = select([*few, *earlier, *many], LENGTH)
    assert chosen.points == tuple(many)
    assert chosen.left_out == 3
    assert chosen.recipe["num_steps"] == 12
    assert select([*few, *earlier, *many], LENGTH, num_images=3200).points == tuple(earlier)


def test_several_runs_are_compared_and_other_seeds_are_not() -> None:
    both = [point(s, s, run=run) for run in "ab" for s in (0.05, 0.1)]
    other = [point(s, s, run="a", seed=1000) for s in (0.05, 0.1, 0.2)]
    assert select([*both, *other], LENGTH).runs == ("a", "b")


def test_a_repeated_point_counts_once_as_its_newest() -> None:
    newest, older = point(0.1, 0.5, metrics=["frechet", "held_out_loss"]), point(0.1, 0.7)
    assert select([newest, older, point(0.2, 0.9)], LENGTH).points[0] is newest


def test_more_pictures_win_among_equal_groups() -> None:
    small = [point(s, s, num_samples=100) for s in (0.1, 0.2)]
    large = [point(s, s, num_samples=900) for s in (0.1, 0.2)]
    assert select([*small, *large], LENGTH).points == tuple(large)


def test_unguided_points_join_the_study_of_guidance() -> None:
    guided = [point(s, 1.0, guidance=w, guide=GUIDE) for s in (0.05, 0.1) for w in (1.5, 2.0)]
    plain = [point(s, 1.0) for s in (0.05, 0.1)]
    other = [point(0.05, 1.0, guidance=1.5, guide=GuideWeights("small", 6400, Profile.power(0.1)))]
    found = analyse(ANALYSES["guidance"], [*plain, *guided, *other])
    assert sorted({row.point.guidance for row in found.rows}) == [1.0, 1.5, 2.0]
    assert len(found.rows) == 6
    # Over the EMA length alone, the unguided points are one group and each weight another.
    assert len(select([*plain, *guided[:1]], LENGTH).points) == 2
    assert len(analyse(ANALYSES["autoguidance"], [*plain[:1], *other, guided[0]]).rows) == 3


def test_intervals_are_compared_with_all_levels_and_with_none() -> None:
    ends = [(0.0, 1.0), (0.0, 5.0), (0.3, 5.0)]
    limited = [point(0.1, 1.0, guidance=2.0, guidance_interval=list(end), guide=GUIDE) for end in ends]
    everywhere = point(0.1, 1.0, guidance=2.0, guide=GUIDE)
    found = analyse(ANALYSES["interval"], [*limited, everywhere, point(0.1, 1.2)])
    assert [row.point.interval for row in found.rows] == [None, (0.0, 1.0), (0.0, 5.0), None, (0.3, 5.0)]


def test_every_time_has_the_same_lengths() -> None:
    """The best of more lengths is better by chance."""
    both = [point(s, 1.0, num_images=t) for t in (3200, 6400) for s in (0.05, 0.1)]
    extra = point(0.2, 0.5)
    other = [point(0.07, 1.0, run="b", num_images=t) for t in (3200, 6400)]
    found = analyse(ANALYSES["training-time"], [*both, extra, *other])
    assert {row.point.sigma_rel for row in found.rows if row.point.run == "a"} == {0.05, 0.1}
    assert len(found.rows) == 6
    assert found.selection.left_out == 1


def test_tensors_are_compared_with_their_own_default() -> None:
    def changed(default: float, width: float) -> Profile:
        tensors = (TensorProfile(pattern="enc.*", profile=Profile.power(width)),)
        return Profile(kind="per_tensor", default=Profile.power(default), tensors=tensors)

    mine = [point(changed(0.1, width), width) for width in (0.05, 0.2)]
    other = [point(changed(0.13, 0.05), 0.7)]
    plain = [point(0.1, 0.5), point(0.13, 0.6)]
    found = analyse(ANALYSES["tensors"], [*mine, *other, *plain])
    assert len([row for row in found.rows if row.point in mine]) == len(mine) == len(found.rows) - 1
    assert [row.point.sigma_rel for row in found.rows if row.point.sigma_rel] == [0.1]


def test_nothing_to_show_is_one_sentence() -> None:
    with pytest.raises(NothingToShow, match=r"^there are no finished evaluations of power-function EMAs$"):
        analyse(ANALYSES["ema-length"], [])
    with pytest.raises(NothingToShow, match=r"with figure fid at 64 images$"):
        analyse(ANALYSES["ema-length"], [point(0.1, 1.0)], figure="fid", num_images=64)
    with pytest.raises(NothingToShow, match=r"with figure fid; finished evaluations have frechet$"):
        analyse(ANALYSES["ema-length"], [point(0.1, 1.0)], figure="fid")
