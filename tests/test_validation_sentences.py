"""Validation errors are told in phema's words; no message of the validation library reaches a user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phema.shared.validation_sentences import LONGEST, sentence

ROOT = Path(__file__).parents[1]


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    whole: int = 1
    number: Annotated[float, Field(gt=0, le=2)] = 1.0
    text: Annotated[str, Field(min_length=2, pattern="^[a-z]+$")] = "ab"
    letter: Literal["A", "B"] = "A"
    flag: bool = True
    entries: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)

    @field_validator("text")
    @classmethod
    def _no_x(cls, text: str) -> str:
        if "x" in text:
            raise ValueError(f"text {text!r} has an x; leave it out")
        return text


class Outer(BaseModel):
    inner: Inner
    needed: int = Field(ge=1)


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ({"whole": "many"}, 'inner.whole "many" must be a whole number'),
        ({"whole": 1.5}, "inner.whole 1.5 must be a whole number"),
        ({"number": 0}, "inner.number 0 must be greater than 0.0"),
        ({"number": 3}, "inner.number 3 must be less than or equal to 2.0"),
        ({"number": float("nan")}, "inner.number NaN must be a finite number"),
        ({"number": []}, "inner.number [] must be a number"),
        ({"text": 3}, "inner.text 3 must be a text"),
        ({"text": "a"}, 'inner.text "a" must have at least 2 characters'),
        ({"text": "A1"}, 'inner.text "A1" must match the pattern ^[a-z]+$'),
        ({"text": "axe"}, "inner.text: text 'axe' has an x; leave it out"),
        ({"letter": "C"}, "inner.letter \"C\" must be 'A' or 'B'"),
        ({"flag": "perhaps"}, 'inner.flag "perhaps" must be true or false'),
        ({"entries": 3}, "inner.entries 3 must be a list"),
        ({"entries": []}, "inner.entries [] must have at least 1 entries"),
        ({"entries": [1, "x"]}, 'inner.entries.1 "x" must be a whole number'),
        ({"hole": 1}, "inner.hole is not known here"),
        (7, "inner 7 must be an object of fields"),
    ],
)
def test_an_error_is_one_sentence_with_field_value_and_what_is_allowed(inner: Any, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": inner, "needed": 1})
    [error] = caught.value.errors(include_url=False)
    assert sentence(error) == expected
    assert sentence(error, "run").startswith("run.inner")


def test_a_missing_field_and_a_long_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"whole": "9" * 500 + "x"}})
    long, missing = (sentence(error) for error in caught.value.errors(include_url=False))
    assert missing == "needed is missing"
    assert len(long) < len("inner.whole  must be a whole number") + LONGEST + 2


def test_no_other_module_shows_a_message_of_the_validation_library() -> None:
    """The API has a translation of its own, for the fields of requests."""
    allowed = {"shared/validation_sentences.py", "services/api/http/validation.py"}
    folders = [ROOT / "shared", ROOT / "services", *(ROOT / "phema").glob("[!_s]*"), ROOT / "phema" / "sdk"]
    files = [file for folder in folders if folder.is_dir() for file in folder.rglob("*.py")]
    assert len(files) > 300
    found = {str(file.relative_to(ROOT)) for file in files if re.search(r"""\[["']msg["']\]""", file.read_text())}
    assert found - allowed == set()
