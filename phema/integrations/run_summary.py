"""What a tracker of experiments logs of a run: its configuration, curves, figures by EMA length, and lineage."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

from phema.client.client import Client
from phema.errors import Refused
from phema.sdk.run_folders.opening import open as open_location
from phema.sdk.run_folders.stored_run import StoredRun
from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.locations import is_location

Scores = Mapping[float, Mapping[str, float]]
"""Figures that the user measured: by σ_rel, then by the name of the figure."""


@dataclass(frozen=True)
class LoggedFigure:
    """One figure of one average."""

    figure: str
    label: str
    """A short text for the profile: σ_rel, or what else describes it."""
    sigma_rel: float | None
    num_images: int
    value: float
    standard_error: float | None = None
    evaluation_id: str | None = None
    reconstruction_id: str | None = None

    @property
    def key(self) -> str:
        """The figure's name and its average, such as `frechet_digits/sigma_rel_0.05`."""
        average = self.label if self.sigma_rel is None else f"sigma_rel_{self.sigma_rel:g}"
        return f"{self.figure}/{average}"


@dataclass(frozen=True)
class RunSummary:
    """A run as trackers log it. `history` has the images seen and the values of each row, in order of time."""

    run_id: str
    name: str
    config_hash: str
    config: Mapping[str, Any]
    """Nested fields have names with dots."""
    history: tuple[tuple[int, Mapping[str, float]], ...]
    figures: tuple[LoggedFigure, ...]
    lineage: Mapping[str, Any]
    """JSON: the run, its snapshots, and its reconstructions with their coefficients' errors and their evaluations."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by name."""

    def figures_csv(self) -> str:
        """One line per figure."""
        text = io.StringIO()
        names = list(LoggedFigure.__dataclass_fields__)
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(figure) for figure in self.figures)
        return text.getvalue()


def summarize(
    run: str | PathLike[str] | StoredRun, *, scores: Scores | None = None, client: Client | None = None
) -> RunSummary:
    """The summary of a run of a service, or of one in a folder or bucket.

    A service's run brings its history, evaluations and reconstructions. `scores` adds figures that the user measured of
    averages at the run's latest time. Raises phema.PhemaError.
    """
    if isinstance(run, StoredRun) or is_location(run):
        return _of_folder(run if isinstance(run, StoredRun) else open_location(run), scores or {})
    if client is not None:
        return _of_service(client, os.fspath(run), scores or {})
    with Client() as opened:
        return _of_service(opened, os.fspath(run), scores or {})


def _of_folder(run: StoredRun, scores: Scores) -> RunSummary:
    snapshots = run.snapshots()
    last = max((s.num_images for s in snapshots), default=0)
    listed = [{"id": s.id, "num_images": s.num_images, "profile": _profile(s.profile)} for s in snapshots]
    planned: list[dict[str, Any]] = []
    if scores and snapshots:
        plan = run.plan(sorted(scores))
        used = [{"id": s.id, "num_images": s.num_images, "profile": s.profile} for s in plan.snapshots]
        planned = [
            {"profile": o.profile, "predicted_error": o.predicted_error, "coefficients": o.coefficients, "from": used}
            for o in plan.outputs
        ]
    return RunSummary(
        run.id,
        run.name,
        run.config_hash,
        dotted_fields(run.config),
        (),
        _measured(scores, last),
        {"run": _described(run), "snapshots": listed, "reconstructions": planned},
    )


def _of_service(client: Client, name: str, scores: Scores) -> RunSummary:
    run = client.runs.get(name)
    snapshots = client.runs.snapshots(run.id)
    evaluations = [e for e in client.evaluations(run.id) if e.figures is not None]
    reconstructions = client.reconstructions(run.id)
    history = tuple(
        (row.num_images, {key: value for key, value in row.values.items() if value is not None})
        for row in client.runs.metrics(run.id)
    )
    figures = tuple(
        LoggedFigure(
            figure, e.label, e.sigma_rel, e.num_images, value, (e.errors or {}).get(figure), e.id, e.reconstruction_id
        )
        for e in evaluations
        for figure, value in (e.figures or {}).items()
        if value is not None
    )
    pictures = {}
    with suppress(Refused):  # no finished evaluation fits
        pictures["ema-length.png"] = client.analyses.file("ema-length", run.id, "png")
    lineage = {
        "run": _described(run),
        "snapshots": [{"id": s.id, "num_images": s.num_images, "profile": s.profile} for s in snapshots],
        "reconstructions": [
            {"id": r.id, "num_images": r.num_images, "profile": r.profile, "predicted_error": r.predicted_error}
            for r in reconstructions
        ],
        "evaluations": [
            {"id": e.id, "reconstruction": e.reconstruction_id, "recipe": e.recipe, "figures": e.figures}
            for e in evaluations
        ],
    }
    return RunSummary(
        run.id,
        run.name,
        run.config_hash,
        dotted_fields(run.config),
        history,
        (*figures, *_measured(scores, run.num_images)),
        lineage,
        pictures,
    )


def _measured(scores: Scores, num_images: int) -> tuple[LoggedFigure, ...]:
    return tuple(
        LoggedFigure(figure, f"{sigma_rel:g}", sigma_rel, num_images, float(value))
        for sigma_rel, figures in scores.items()
        for figure, value in figures.items()
    )


def _described(run: Any) -> dict[str, Any]:
    return {"id": run.id, "name": run.name, "origin": run.origin, "config_hash": run.config_hash}


def _profile(profile: Profile) -> dict[str, Any]:
    return profile.model_dump(mode="json", exclude_none=True)
