"""How commands show an analysis: a table, and files with data and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from phema.client.client import Client
from phema.client.resources.analyses import Analysis, AnalysisRow
from phema.terminal.formats import figure
from phema.terminal.screen import Screen

FORMATS: tuple[Literal["json", "csv", "svg", "png"], ...] = ("json", "csv", "svg", "png")


def write_files(
    service: Client,
    name: str,
    runs: Sequence[str],
    folder: Path,
    *,
    figure: str | None = None,
    num_images: int | None = None,
    stem: str | None = None,
) -> list[str]:
    """Write the analysis into the folder as JSON, CSV, SVG and PNG; returns the paths.

    The files are called `stem`, or as the analysis.
    """
    paths = []
    for format in FORMATS:
        path = folder / f"{stem or name}.{format}"
        path.write_bytes(service.analyses.file(name, runs, format, figure=figure, num_images=num_images))
        paths.append(str(path))
    return paths


def show(view: Screen, found: Analysis, files: Sequence[str]) -> None:
    """Print one row per evaluation, the best one and those that cannot be told from it marked."""
    several = len(found.runs) > 1
    timed = len({row.num_images for row in found.rows}) > 1
    guided = any(row.guidance != 1 for row in found.rows)
    columns = [*(["RUN"] if several else []), *(["IMAGES"] if timed else []), "PROFILE"]
    columns += [*(["GUIDANCE", "GUIDE"] if guided else []), found.figure.upper(), "±", "DIFFERENCE", "± ", ""]
    rows = []
    for row in found.rows:
        cells = [*([row.run] if several else []), *([f"{row.num_images:,}"] if timed else []), row.label]
        cells += [*([_guidance(row), _guide(row)] if guided else [])]
        cells += [figure(row.value), figure(row.standard_error)]
        cells += ["" if row.best else figure(row.difference), "" if row.best else figure(row.difference_error)]
        rows.append([*cells, "best" if row.best else "tied" if row.tied else ""])
    view.table(columns, rows, right=("IMAGES", found.figure.upper(), "±", "DIFFERENCE", "± "))
    view.say("")
    samples = found.recipe.get("num_samples")
    of = f", {samples:,} pictures each" if isinstance(samples, int) else ""
    view.say(f"{found.title}{of}; {found.better} is better; tied: less than 2 errors of the difference from the best")
    if found.left_out:
        view.say(f"{found.left_out} other evaluations cannot be compared with these: another recipe, time or profile")
    for path in files:
        view.say(path)


def show_profiles(view: Screen, found: dict[str, Any], files: Sequence[str]) -> None:
    """Print one row per reconstruction."""
    columns = ("PROFILE", "SNAPSHOTS", "PROFILE_ERROR", "PREDICTED_ERROR", "NOISE_GAIN")
    rows = [
        (
            row["label"],
            str(row["snapshots"]),
            *(figure(row[name]) for name in ("profile_error", "predicted_error", "noise_gain")),
        )
        for row in found["rows"]
    ]
    view.table(columns, rows, right=columns[1:])
    for path in files:
        view.say(path)


def document(found: Analysis, files: Sequence[str]) -> dict[str, Any]:
    """The analysis as JSON."""
    return found.to_json() | ({"files": list(files)} if files else {})


def _guidance(row: AnalysisRow) -> str:
    if row.guidance_low is None:
        return f"{row.guidance:g}"
    return f"{row.guidance:g} ({row.guidance_low:g}, {row.guidance_high:g}]"


def _guide(row: AnalysisRow) -> str:
    return "" if row.guide_run is None else f"{row.guide_run} {row.guide_num_images} {row.guide_sigma_rel}"
