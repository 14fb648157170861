"""The state of the EMA explorer, as its address holds it, and the requests that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Query
from pydantic import ValidationError

from phema.services.api.http.problems import Invalid
from phema.services.api.http.schema_base import MAX_COUNT
from phema.services.api.previews.schemas import PreviewCreate
from phema.services.api.profile_curves.schemas import ProfileCurvesCreate
from phema.shared.submissions.errors import InvalidFields
from phema.shared.validation_sentences import sentence as sentence_of
from phema.shared.validation_sentences import shown

PICTURES = 16
STEPS = 16
"""Of the sampler. Pictures that follow a slider may differ a little from those of an evaluation with more steps."""
SLIDER = (0.01, 0.25)
"""Ends of the slider of the EMA length; the field beside it takes every value."""
_PROFILE = {
    "sigma_rel": float,
    "gamma": float,
    "half_life_images": int,
    "rampup_ratio": float,
    "window_images": int,
    "last_times": int,
    "shape": str,
    "length_images": int,
    "start_images": int,
    "times": None,
    "weights": None,
}
"""Fields of a profile, with the type of their text; None for lists of numbers."""

Text = Annotated[str | None, Query(max_length=20_000)]
Number = Annotated[float | None, Query()]
Count = Annotated[int | None, Query(ge=0, le=MAX_COUNT)]


@dataclass(frozen=True)
class ExplorerQuery:
    """The parameters of the address. Fields that are not given are None."""

    profile: Mapping[str, Any] = field(default_factory=dict)
    """`kind` and the fields of the profile; without fields, the page chooses an EMA length."""
    num_images: int | None = None
    tensors: tuple[tuple[str, float], ...] = ()
    """(pattern, EMA length) of the tensors that have their own."""
    num_steps: int = STEPS
    guidance: float = 1.0
    guide_id: str | None = None
    guidance_low: float | None = None
    guidance_high: float | None = None
    seed: int = 0
    class_label: str = "random"
    figure: str | None = None

    def wanted(self, sigma_rel: float) -> dict[str, Any]:
        """The fields of a request that say which average is wanted. `sigma_rel`: where the address names none."""
        fields = dict(self.profile)
        kind = fields.pop("kind", "power")
        body: dict[str, Any]
        if kind == "power" and "gamma" not in fields:
            body = {"sigma_rel": fields.get("sigma_rel", sigma_rel)}
        else:
            body = {"profiles": [{"kind": kind, **fields}]}
        if self.tensors:
            body["tensors"] = [{"pattern": name, "profile": {"sigma_rel": width}} for name, width in self.tensors]
        if self.num_images is not None:
            body["num_images"] = self.num_images
        return body

    @property
    def sampler(self) -> dict[str, Any]:
        """The fields of a preview that say how its pictures are drawn."""
        body: dict[str, Any] = {
            "seeds": f"{self.seed}-{self.seed + PICTURES - 1}",
            "class_label": self.class_label,
            "num_steps": self.num_steps,
        }
        if self.guidance != 1:
            body |= {"guidance": self.guidance, "guide_id": self.guide_id}
            if self.guidance_low is not None or self.guidance_high is not None:
                low, high = self.guidance_low or 0.0, self.guidance_high
                body["guidance_interval"] = [low, 80.0 if high is None else high]
        return body


def explorer_query(
    kind: Text = None,
    sigma_rel: Number = None,
    gamma: Number = None,
    half_life_images: Count = None,
    rampup_ratio: Number = None,
    window_images: Count = None,
    last_times: Count = None,
    shape: Text = None,
    length_images: Count = None,
    start_images: Count = None,
    times: Text = None,
    weights: Text = None,
    profile: Text = None,
    num_images: Annotated[int | None, Query(ge=1, le=MAX_COUNT)] = None,
    tensor: Annotated[list[str] | None, Query(max_length=256)] = None,
    num_steps: Annotated[int, Query(ge=2, le=1000)] = STEPS,
    guidance: Annotated[float, Query(ge=0, le=100)] = 1.0,
    guide_id: Annotated[str | None, Query(max_length=100)] = None,
    guidance_low: Number = None,
    guidance_high: Number = None,
    seed: Annotated[int, Query(ge=0, lt=2**31 - PICTURES)] = 0,
    class_label: Annotated[str, Query(max_length=200)] = "random",
    figure: Annotated[str | None, Query(max_length=100)] = None,
) -> ExplorerQuery:
    """Reads the address. Raises Invalid."""
    given = {name: value for name, value in locals().items() if name in _PROFILE and value is not None}
    if profile is not None and (kind is not None or given):
        sentence = "profile names the whole average as JSON; leave kind and its fields out"
        raise Invalid.of("profile", sentence, place="query")
    fields = {name: _numbers(name, value) if _PROFILE[name] is None else value for name, value in given.items()}
    return ExplorerQuery(
        {"kind": kind or "power", **fields} if profile is None else _document(profile),
        num_images,
        tuple(_pattern(text) for text in tensor or ()),
        num_steps,
        guidance,
        guide_id,
        guidance_low,
        guidance_high,
        seed,
        class_label,
        figure,
    )


def curves_request(query: ExplorerQuery, sigma_rel: float) -> ProfileCurvesCreate:
    """Raises InvalidFields with the first sentence."""
    try:
        return ProfileCurvesCreate.model_validate(query.wanted(sigma_rel))
    except ValidationError as error:
        raise _invalid(error) from error


def preview_request(query: ExplorerQuery, sigma_rel: float) -> PreviewCreate:
    """Raises InvalidFields with the first sentence."""
    try:
        return PreviewCreate.model_validate(query.wanted(sigma_rel) | query.sampler)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> InvalidFields:
    first = error.errors(include_url=False)[0]
    return InvalidFields.of(".".join(map(str, first["loc"])), sentence_of(first))


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Invalid.of("profile", f"profile {shown(text)} must be a JSON object, as in a request", place="query")
    return found


def _pattern(text: str) -> tuple[str, float]:
    pattern, _, width = text.rpartition("=")
    try:
        return pattern, float(width)
    except ValueError as error:
        sentence = f"tensor {text!r} must be a pattern and an EMA length, such as *emb*=0.2"
        raise Invalid.of("tensor", sentence, place="query") from error


def _numbers(name: str, text: str) -> list[int | float]:
    try:
        return [json.loads(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise Invalid.of(name, f"{name} must be numbers, separated by commas", place="query") from error
