"""Base classes of requests and answers, and the parameters that many endpoints share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from starlette.convertors import StringConvertor, register_url_convertor

from phema.shared.catalog import JobKind, JobState, RunState

MAX_COUNT = 2**53 - 1
"""Largest integer that JSON, JavaScript and both databases represent exactly."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

RunRef = Annotated[str, Path(max_length=100, pattern=NAME, description="Id or name of a run.")]
Id = Annotated[str, Path(max_length=100, pattern=NAME, description="Id, as an answer of the API shows it.")]
BodyId = Annotated[str, Field(max_length=100, pattern=NAME)]
RunQuery = Annotated[
    str | None, Query(max_length=100, pattern=NAME, description="Only those of this run, given by id or name.")
]
ParentQuery = Annotated[
    str | None, Query(max_length=100, pattern=NAME, description="Only jobs that this job enqueued.")
]
StateQuery = Annotated[JobState | None, Query(description="Only those in this state.")]
RunStateQuery = Annotated[RunState | None, Query(description="Only those in this state.")]
KindQuery = Annotated[JobKind | None, Query(description="Only jobs of this kind.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Largest number of items in one answer.")]
CursorParameter = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the previous page; absent for the first page.")
]

EXTERNAL = "external"
"""`POST /v1/runs/external` opens a run, so no run may have this name."""


class _RunConvertor(StringConvertor):
    """Everything but `EXTERNAL`: `GET /v1/runs/external` is not the run of that name, but 405."""

    regex = rf"(?!{EXTERNAL}$)[^/]+"


register_url_convertor("run", _RunConvertor())

Timestamp = Annotated[
    float,
    PlainSerializer(lambda at: _iso(at), return_type=str, when_used="json"),
    Field(json_schema_extra={"type": "string", "format": "date-time"}),
]
"""Seconds since the epoch in Python; ISO 8601 in UTC with microseconds in JSON."""


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class RequestModel(BaseModel):
    """Base of request bodies. Unknown keys are errors, so that a mistyped field is not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResponseModel(BaseModel):
    """Base of answers. The services of the resources build them from catalog rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Item = TypeVar("Item", bound=ResponseModel)


class Page(ResponseModel, Generic[Item]):
    """A part of a list. `next_cursor` is null on the last page and opaque otherwise."""

    items: list[Item]
    next_cursor: str | None = None
