"""Requests for pictures: seeds as text, classes, and what does not fit a network."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest, UnknownClass
from phema.shared.recipes.seed_lists import MAX_SEED, parse_seeds, seeds_text

DIGITS = resolve("digits-tiny")
LATENTS = resolve(
    "digits-tiny",
    {
        "network": {"img_resolution": 64, "img_channels": 4, "label_dim": 0},
        "dataset": {"name": "latents", "path": "/data/latents.zip", "held_out": 0},
    },
)


@given(st.lists(st.integers(0, MAX_SEED) | st.integers(0, 50), min_size=1, max_size=60, unique=True))
def test_a_list_of_seeds_has_one_text(seeds: list[int]) -> None:
    text = seeds_text(seeds)
    assert parse_seeds(text) == tuple(seeds) == parse_seeds(seeds)
    assert seeds_text(parse_seeds(text)) == text


def test_texts_of_seeds() -> None:
    assert parse_seeds("0-3, 100,7-7") == (0, 1, 2, 3, 100, 7)
    assert seeds_text([0, 1, 2, 3, 100, 7]) == "0-3,100,7"
    assert seeds_text([2, 1, 0]) == "2,1,0"
    document = SampleRequest(seeds=[5, 6, 7]).model_dump(mode="json")  # type: ignore[arg-type]
    assert document["seeds"] == "5-7"
    assert SampleRequest.model_validate(document) == SampleRequest(seeds="5-7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("5-2", "has the range 5-2, which must rise from its first seed to its last"),
        ("0-9,5", "names the seed 5 twice"),
        ("0-2000000000", "has 2,000,000,001 seeds; from 1 to 100,000 are allowed"),
        ("9999999999", "has the seed 9999999999; seeds from 0 to 2147483647 are allowed"),
        ([-1], "has the seed -1"),
        ([], "has 0 seeds"),
        ("1-", "has the part '1-'"),
        ("all", "has the part 'all'"),
        ([True], "must be a list of integers or a text"),
        (3, "must be a list of integers or a text such as 0-63,100, not 3"),
    ],
)
def test_seeds_that_are_refused(given: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_seeds(given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("3", 3), (3, 3), ("random", "random"), ("none", None), (None, None), ("tabby cat", "tabby cat")],
)
def test_classes_by_number_and_name(given: object, meant: object) -> None:
    assert SampleRequest(class_label=given).class_label == meant  # type: ignore[arg-type]


def test_a_name_is_looked_up_among_those_of_the_dataset() -> None:
    request = SampleRequest(class_label="dog")
    assert request.needs_names
    assert request.label(3, ("ant", "cat", "dog")) == 2
    with pytest.raises(UnknownClass, match="class_label 'dog' is no class of this network: its classes are ant, cat"):
        request.label(2, ("ant", "cat"))
    with pytest.raises(UnknownClass, match="its dataset knows no names of classes"):
        request.label(2)
    assert [SampleRequest(class_label=c).label(10) for c in (4, "random", None)] == [4, "random", None]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"class_label": -1}, "must be a class number"),
        ({"class_label": ""}, "must be a class number"),
        ({"format": "gif"}, "'grid', 'zip', 'npy' or 'npz'"),
        ({"format": "npy", "columns": 3}, "columns 3 has no effect with format npy"),
        ({"seeds": "0-1024"}, "seeds names 1,025 pictures; a grid holds at most 1,024"),
        ({"guidance": 2}, "guidance 2 needs guide_id"),
        ({"sigma_min": 90}, "sigma_min 90 must be below sigma_max 80"),
    ],
)
def test_requests_that_no_network_can_do(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        SampleRequest.model_validate(fields)


def test_requests_that_do_not_fit_a_network() -> None:
    def misfit(config: RunConfig, **fields: object) -> tuple[str, str] | None:
        found = SampleRequest.model_validate(fields).misfit(config.network, config.dataset)
        return None if found is None else (found.field, found.sentence)

    assert misfit(DIGITS, class_label=9) is None
    assert misfit(DIGITS, class_label=10) == (
        "class_label",
        "class_label 10 is no class of this network; allowed: 0 to 9, random, none",
    )
    assert misfit(DIGITS, class_label="seven") == (
        "class_label",
        "class_label 'seven' is no class of this network; allowed: 0 to 9, random, none; its classes have no names",
    )
    for wanted in (0, "cat"):
        field, sentence = misfit(LATENTS, class_label=wanted) or ("", "")
        assert field == "class_label"
        assert sentence.endswith("this network knows no classes, only random or none is allowed")
    assert misfit(LATENTS) is None
    field, sentence = misfit(LATENTS, format="zip") or ("", "")
    assert (field, sentence[:40]) == ("format", "format zip holds pictures, and this netw")
    vae = LATENTS.model_copy(update={"dataset": LATENTS.dataset.model_copy(update={"vae": "/vae"})})
    assert misfit(vae, format="zip") is None
    assert misfit(vae, format="npy", seeds="0-5460") is None
    assert misfit(vae, format="npy", seeds="0-5461") == (
        "seeds",
        "seeds names 5,462 pictures of 512x512 pixels; format npy holds at most 5,461 of them",
    )
