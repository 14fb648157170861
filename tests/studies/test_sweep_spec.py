"""Grids: which points they have, in which order, and which mistakes are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from phema.shared.snapshots.profile import Profile
from phema.shared.studies.errors import StudyError
from phema.shared.studies.point import StudyPointSpec
from phema.shared.studies.sweep_points import CHUNK, SweepPoints
from phema.shared.studies.sweep_spec import MAX_POINTS, SweepSpec, extended


def spec(**fields: Any) -> SweepSpec:
    """A checked spec; resolved if it names times."""
    made = SweepSpec.model_validate({"sigma_rel": [0.05, 0.1], **fields})
    made.check()
    return made


def points(**fields: Any) -> list[StudyPointSpec]:
    return list(SweepPoints(spec(**{"num_images": [640, 1280], **fields}), "run-1"))


def test_one_value_is_an_axis_with_one_value() -> None:
    assert spec(sigma_rel=0.05, num_images=640, guidance_interval=None) == spec(
        sigma_rel=[0.05], num_images=[640], guidance_interval=[None]
    )


def test_the_points_are_all_combinations_times_outermost_and_the_recipe_innermost() -> None:
    found = [
        (p.weights.num_images, p.weights.profile.sigma_rel, p.recipe["num_steps"]) for p in points(num_steps=[4, 8])
    ]
    assert found == [(t, s, n) for t in (640, 1280) for s in (0.05, 0.1) for n in (4, 8)]


def test_points_without_guidance_have_no_guide_and_come_once() -> None:
    guide = {"run": "run-2", "sigma_rel": [0.02, 0.2], "num_images": [320]}
    found = points(sigma_rel=0.05, num_images=640, guidance=[1, 2], guidance_interval=[None, [0.2, 1.6]], guide=guide)
    shown = [
        (
            p.guide.profile.sigma_rel if p.guide else None,
            p.recipe["guidance"],
            p.recipe["guidance_interval"],
        )
        for p in found
    ]
    assert shown == [
        (None, 1, None),
        (0.02, 2, None),
        (0.02, 2, [0.2, 1.6]),
        (0.2, 2, None),
        (0.2, 2, [0.2, 1.6]),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": [0, 1, 2], "churn": [0, 10]},
        {
            "guidance": [1, 1.5, 2],
            "guidance_interval": [None, [0.2, 1.6]],
            "guide": {"run": "run-2", "sigma_rel": [0.02, 0.2], "num_images": [320, 640]},
        },
        {"tensors": [[], [{"pattern": "*emb*", "profile": {"sigma_rel": 0.2}}]]},
    ],
)
def test_the_number_of_points_is_known_without_expanding(fields: dict[str, Any]) -> None:
    fields = {"num_images": [640, 1280], **fields}
    expanded = SweepPoints(spec(**fields), "run-1")
    assert spec(**fields).num_points == len(expanded) == len(list(expanded))
    assert len({point.model_dump_json() for point in expanded}) == len(expanded), "no point comes twice"


def test_tensors_change_the_profile_of_some() -> None:
    emb = [{"pattern": "*emb*", "profile": {"sigma_rel": 0.2}}]
    kinds = [p.weights.profile.kind for p in points(sigma_rel=0.05, num_images=640, tensors=[[], emb])]
    assert kinds == ["power", "per_tensor"]
    assert spec(tensors=emb) == spec(tensors=[emb])


def test_chunks_hold_the_weights_of_one_time() -> None:
    widths = [0.01 + 0.001 * i for i in range(CHUNK + 3)]
    expanded = SweepPoints(spec(sigma_rel=widths, num_images=[640, 1280], seed=[0, 1]), "run-1")
    assert [len(expanded.chunk(i)) for i in range(4)] == [CHUNK, 3, CHUNK, 3]
    for number, point in enumerate(expanded):
        chunk, place = expanded.chunk_of(number)
        assert expanded.chunk(chunk)[place] == point.weights


def test_a_stored_sweep_is_read_back_unchanged() -> None:
    made = spec(num_images=640, guidance=[1, 2], guide={"run": "run-2", "sigma_rel": 0.02, "num_images": 640})
    assert SweepSpec.model_validate(made.model_dump(mode="json")) == made


def test_an_extension_keeps_the_values_and_their_order() -> None:
    made = extended(spec(), {"sigma_rel": (0.2, 0.05), "num_samples": 4096})
    assert made.sigma_rel == (0.05, 0.1, 0.2)
    assert made.num_samples == 4096


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"sigma_rel": []}, "sigma_rel", "sigma_rel is an empty list"),
        ({"num_steps": []}, "num_steps", "num_steps is an empty list"),
        ({"guidance": 2, "guide": {"sigma_rel": []}}, "guide.sigma_rel", r"guide\.sigma_rel is an empty list"),
        ({"sigma_rel": [0.05, 0.05]}, "sigma_rel", "sigma_rel names 0.05 twice"),
        ({"seed": [0, 0]}, "seed", "seed names 0 twice"),
        ({"churn_max": [None, None]}, "churn_max", "churn_max names null twice"),
        ({"tensors": [[], []]}, "tensors", r"tensors names an empty list twice"),
        (
            {"seed": list(range(MAX_POINTS + 1))},
            "seed",
            f"seed lists 10,001 values; a sweep takes at most {MAX_POINTS:,} p",
        ),
        ({"sigma_rel": None}, "sigma_rel", "neither is given"),
        ({"profiles": [Profile.power(0.05)]}, "sigma_rel", "both are given"),
        ({"guidance": [1, 2]}, "guide", "guidance 2 needs guide"),
        ({"guide": {"sigma_rel": 0.05}}, "guide", "guide has no effect with guidance 1"),
        ({"guidance_interval": [[0.2, 1.6]]}, "guidance_interval", "guidance_interval has no effect"),
        ({"num_steps": [8, 1]}, "num_steps", "num_steps 1 must be greater than or equal to 2"),
        ({"num_samples": 0}, "num_samples", "num_samples 0 must be greater"),
        ({"sigma_min": 3, "sigma_max": [2, 80]}, "", "sigma_min 3 must be below sigma_max 2"),
        (
            {"sigma_rel": [0.01 + i * 1e-4 for i in range(200)], "seed": list(range(51))},
            "",
            f"has 10,200 points; a sweep takes at most {MAX_POINTS:,}",
        ),
    ],
)
def test_mistakes_are_one_sentence_with_the_field(fields: dict[str, Any], field: str, sentence: str) -> None:
    made = SweepSpec.model_validate({"sigma_rel": [0.05, 0.1], **fields})
    with pytest.raises(StudyError, match=sentence) as raised:
        made.check()
    assert raised.value.field == field


def test_a_grid_is_counted_and_refused_before_a_profile_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: SweepSpec) -> list[Profile]:
        raise AssertionError("profiles were built")

    monkeypatch.setattr(SweepSpec, "averages", property(build))
    patterns = [[{"pattern": f"{i}*", "profile": {"sigma_rel": 0.2}}] for i in range(101)]
    made = SweepSpec.model_validate({"sigma_rel": [0.01 + i * 1e-4 for i in range(100)], "tensors": patterns})
    assert made.num_points == 10_100
    with pytest.raises(StudyError, match="has 10,100 points"):
        made.check()


def test_values_of_a_long_axis_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = 0

    def equal(one: Profile, other: object) -> bool:
        nonlocal comparisons
        comparisons += 1
        return isinstance(other, Profile) and one.sigma_rel == other.sigma_rel

    monkeypatch.setattr(Profile, "__eq__", equal)
    profiles = [Profile.power(0.01 + i * 1e-4) for i in range(1000)]
    spec(sigma_rel=None, profiles=profiles)
    extended(SweepSpec(profiles=tuple(profiles)), {"profiles": tuple(profiles)})
    assert comparisons < 5 * len(profiles)


@pytest.mark.parametrize("fields", [{"sigma_rel": [0.3]}, {"metrics": ["nonsense"]}, {"sigma_rels": [0.1]}])
def test_values_that_no_sweep_can_have_are_refused_when_they_are_read(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SweepSpec.model_validate({"sigma_rel": [0.05], **fields})
