"""`/v1/analyses`: the paper's analyses of finished evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from starlette.responses import Response

from phema.services.api.analyses import service
from phema.services.api.analyses.schemas import Analysis, AnalysisName, DataFormat, ProfileAnalysis
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NotFinished
from phema.services.api.http.schema_base import MAX_COUNT, NAME

router = APIRouter(tags=["analyses"])

Analysed = Annotated[AnalysisName, PathParameter(description="What is studied; the list below explains each.")]
RunName = Annotated[str, Query(max_length=100, pattern=NAME)]
RunsQuery = Annotated[
    list[RunName], Query(min_length=1, max_length=20, description="Name or id of a run; repeat it for several runs.")
]
RunOnce = Annotated[str, Query(max_length=100, pattern=NAME, description="Name or id of the run.")]
At = Annotated[
    int | None,
    Query(ge=1, le=MAX_COUNT, description="Only at this training time; by default the one with most results."),
]
Figure = Annotated[
    str | None,
    Query(max_length=100, description="Name of the figure; by default the one by which evaluations are ranked."),
]
Format = Annotated[DataFormat, Query(description="`json` and `csv` are data; `svg` and `png` are the picture.")]
Dark = Annotated[bool, Query(description="Colours of the picture for a dark page.")]

_OTHER_FORMATS: dict[str, dict[str, str]] = {"text/csv": {}, "image/svg+xml": {}, "image/png": {}}


@router.get(
    "/v1/analyses/profiles",
    response_model=ProfileAnalysis,
    summary="Profiles of a run's reconstructions",
    responses={200: {"content": _OTHER_FORMATS}, **problem_responses(NotFinished)},
)
def get_profiles(
    run: RunOnce, services: ServicesDep, num_images: At = None, format: Format = "json", dark: Dark = False
) -> Response:
    """Wanted and reconstructed weighting of training history (Figure 4) of the newest finished reconstructions."""
    with services.catalog.transaction(read_only=True) as tx:
        name, plan = service.profiles(tx, run, num_images=num_images)
    return service.profiles_answer(name, plan, format, dark=dark)


@router.get(
    "/v1/analyses/{analysis}",
    response_model=Analysis,
    summary="An analysis of finished evaluations",
    responses={200: {"content": _OTHER_FORMATS}, **problem_responses(NotFinished)},
)
def get_analysis(
    analysis: Analysed,
    run: RunsQuery,
    services: ServicesDep,
    figure: Figure = None,
    num_images: At = None,
    format: Format = "json",
    dark: Dark = False,
) -> Response:
    """The finished evaluations of the runs that differ only in what is studied, each beside the best one.

    - `ema-length`: a figure over the EMA length, for several runs (Figure 5a).
    - `tensors`: change of a figure when the tensors of one pattern have another EMA length (5b).
    - `training-time`: the best value over training time, and the EMA length at which it lies (5c).
    - `guidance`: a figure over EMA length and guidance weight (6).
    - `autoguidance`: a figure over guidance weight or the guide's EMA length, one curve per guide.
    - `interval`: a figure over the noise levels at which the sampler is guided.

    Nothing is evaluated: `POST /v1/evaluations` and sweeps do that. With `training-time`, `num_images` has no effect.
    """
    with services.catalog.transaction(read_only=True) as tx:
        at = None if analysis == "training-time" else num_images
        found = service.analysed(tx, str(analysis), run, figure=figure, num_images=at)
    return service.answer(found, format, dark=dark)
