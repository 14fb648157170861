"""`0.05,0.10,...,0.25`."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phema.command.sigma_rel_lists import MOST, RangeError, expand, sigma_rels
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1", (0.1,)),
        ("0.05,0.1", (0.05, 0.1)),
        ("0.05,0.10,...,0.25", (0.05, 0.1, 0.15, 0.2, 0.25)),
        ("0.05, 0.10, ..., 0.25", (0.05, 0.1, 0.15, 0.2, 0.25)),
        ("0.05,0.10,…,0.25", (0.05, 0.1, 0.15, 0.2, 0.25)),
        ("0.25,0.20,...,0.10", (0.25, 0.2, 0.15, 0.1)),
        ("0.01,0.02,...,0.05,0.10,...,0.20", (0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.15, 0.2)),
        ("5e-2,1e-1,...,2e-1", (0.05, 0.1, 0.15, 0.2)),
    ],
)
def test_lists_and_ranges(text: str, values: tuple[float, ...]) -> None:
    assert sigma_rels(text) == values


@given(start=st.integers(1, 2000), step=st.integers(1, 50), steps=st.integers(1, 60), places=st.sampled_from([4, 5, 6]))
def test_a_range_is_what_writing_it_out_gives(start: int, step: int, steps: int, places: int) -> None:
    numbers = [Decimal(start + k * step).scaleb(-places) for k in range(steps + 2)]
    assert expand(f"{numbers[0]},{numbers[1]},...,{numbers[-1]}") == expand(",".join(map(str, numbers)))


@given(start=st.integers(1, 2000), step=st.integers(1, 50), steps=st.integers(1, 60))
def test_each_value_is_the_float_that_its_decimal_names(start: int, step: int, steps: int) -> None:
    """Not a sum of rounded steps: a tracked sigma_rel must be hit exactly."""
    whole = [start + k * step for k in range(steps + 2)]
    text = f"0.{whole[0]:05d},0.{whole[1]:05d},...,0.{whole[-1]:05d}"
    if whole[-1] < SIGMA_REL_LIMIT * 10**5:
        assert sigma_rels(text) == tuple(float(f"0.{n:05d}") for n in whole)


@given(start=st.integers(1, 1000), step=st.integers(2, 50), steps=st.integers(1, 20), data=st.data())
def test_a_range_that_misses_its_end_names_the_two_ends_it_could_have(
    start: int, step: int, steps: int, data: st.DataObject
) -> None:
    off = data.draw(st.integers(1, step - 1))
    below, above = start + (steps + 1) * step, start + (steps + 2) * step
    with pytest.raises(RangeError, match=f"could end at {below} or {above}"):
        expand(f"{start},{start + step},...,{below + off}")


@given(st.text(alphabet="0123456789.,e-+…x ", max_size=24))
def test_any_text_is_either_a_list_or_one_sentence(text: str) -> None:
    try:
        values = sigma_rels(text)
    except RangeError as error:
        sentence = str(error)
    else:
        sentence = "a list"
        assert all(0 < value < SIGMA_REL_LIMIT for value in values)
        assert 1 <= len(values) == len(set(values)) <= MOST
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' contains an empty place where a number or ... should be"),
        ("0.1,,0.2", "'0.1,,0.2' contains an empty place where a number or ... should be"),
        ("0.1,a", "'0.1,a' contains 'a' where a number or ... should be"),
        ("nan", "'nan' contains 'nan', which is no usable number"),
        ("1e-99,0.1", "'1e-99,0.1' contains '1e-99', which is no usable number"),
        ("0.1,...,0.2", "the ... in '0.1,...,0.2' needs two numbers before it, as in 0.05,0.10,...,0.25"),
        ("0.1,0.2,...", "the ... in '0.1,0.2,...' needs a number after it, as in 0.05,0.10,...,0.25"),
        ("0.1,0.1,...,0.2", "the range in '0.1,0.1,...,0.2' never moves: 0.1 and 0.1 are equal"),
        ("0.1,0.2,...,0.05", "the range in '0.1,0.2,...,0.05' steps by 0.1 and cannot reach 0.05 from 0.2"),
        ("1,2,...,3.5", "the range in '1,2,...,3.5' steps by 1 and misses 3.5; it could end at 3 or 4"),
        ("0.1,0.1000001,...,0.2", "the range in '0.1,0.1000001,...,0.2' has 999999 values; 256 are allowed"),
        ("0.1,0.3", "sigma_rel 0.3 is impossible; it must be above 0 and below 0.2887"),
        ("0", "sigma_rel 0 is impossible; it must be above 0 and below 0.2887"),
        ("0.1,0.2,0.10", "'0.1,0.2,0.10' names sigma_rel 0.10 twice"),
    ],
)  # fmt: skip
def test_mistakes(text: str, sentence: str) -> None:
    with pytest.raises(RangeError) as caught:
        sigma_rels(text)
    assert str(caught.value) == sentence
