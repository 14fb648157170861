"""Analyses: from rows of the catalog to answers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from phema.services.api.analyses.finished_evaluations import finished_evaluations, runs_of, with_replicates
from phema.services.api.analyses.schemas import Analysis, DataFormat, ProfileAnalysis
from phema.services.api.analyses.stored_plans import plans_of_run
from phema.services.api.http.problems import NotFinished
from phema.shared.analyses.kinds import ANALYSES, Analysed, analyse
from phema.shared.analyses.profiles import CombinedPlan
from phema.shared.analyses.selection import NothingToShow
from phema.shared.catalog import Transaction

# A picture that a browser opens by itself may load and run nothing.
_PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def analysed(
    tx: Transaction, name: str, runs: Sequence[str], *, figure: str | None, num_images: int | None
) -> Analysed:
    """Raises Invalid, NotFinished."""
    points = finished_evaluations(tx, runs_of(tx, runs))
    try:
        found = analyse(ANALYSES[name], points, figure=figure, num_images=num_images)
    except NothingToShow as error:
        raise NotFinished(str(error)) from error
    return found.with_points(with_replicates(tx, found.selection.points, [found.selection.figure]))


def answer(found: Analysed, format: DataFormat, *, dark: bool) -> Response:
    """The analysis in the wanted format. It needs no transaction. Raises NotFinished."""
    if format == "json":
        return JSONResponse(Analysis.model_validate(found.document()).model_dump(mode="json"))
    if format == "csv":
        from phema.shared.analyses.tables import as_csv

        return _file(as_csv(found.rows), "text/csv", f"{found.analysis.name}.csv")
    from phema.shared.pictures.theme import DARK, LIGHT  # matplotlib, which most processes of the API never need

    try:
        return picture(found.picture(DARK if dark else LIGHT, format), format)
    except NothingToShow as error:
        raise NotFinished(str(error)) from error


def profiles(tx: Transaction, run: str, *, num_images: int | None) -> tuple[str, CombinedPlan]:
    """The name of the run and the plans of its finished reconstructions. Raises Invalid, NotFinished."""
    [row] = runs_of(tx, [run])
    plan = plans_of_run(tx, row.id, num_images)
    if plan is None or not plan.outputs:
        at = "" if num_images is None else f" at {num_images} images"
        raise NotFinished(f"run {row.name} has no finished reconstruction{at}; reconstruct some EMA lengths first")
    return row.name, plan


def profiles_answer(run: str, plan: CombinedPlan, format: DataFormat, *, dark: bool) -> Response:
    """The profiles in the wanted format."""
    if format == "json":
        document = {"analysis": "profiles", "run": run, "num_images": plan.num_images, "rows": plan.document()}
        return JSONResponse(ProfileAnalysis.model_validate(document).model_dump(mode="json"))
    if format == "csv":
        return _file(plan.as_csv(), "text/csv", "profiles.csv")
    from phema.shared.pictures.theme import DARK, LIGHT  # see `answer`

    return picture(plan.picture(DARK if dark else LIGHT, format), format)


def picture(content: bytes, format: DataFormat) -> Response:
    """A PNG or SVG."""
    return Response(content, media_type="image/svg+xml" if format == "svg" else "image/png", headers=_PICTURE_HEADERS)


def _file(text: str, media_type: str, name: str) -> Response:
    return Response(text, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
