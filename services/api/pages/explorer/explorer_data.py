"""What the EMA explorer shows at first: the plan with its curves, measured figures, stored averages and work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from phema.services.api.analyses.finished_evaluations import finished_evaluations, with_replicates
from phema.services.api.analyses.schemas import Analysis
from phema.services.api.http.dependencies import Services
from phema.services.api.jobs import service as jobs
from phema.services.api.jobs.schemas import Job
from phema.services.api.pages.explorer.explorer_query import ExplorerQuery, curves_request, preview_request
from phema.services.api.previews import service as previews_service
from phema.services.api.previews.schemas import PreviewPlan
from phema.services.api.profile_curves.schemas import ProfileCurves
from phema.services.api.profile_curves.service import to_profile_curves
from phema.services.api.reconstructions import service as reconstructions_service
from phema.services.api.reconstructions.schemas import Reconstruction
from phema.services.api.runs import service as runs
from phema.services.api.runs.schemas import Run
from phema.shared import catalog
from phema.shared.analyses.analysis import figure_title
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.kinds import ANALYSES, analyse
from phema.shared.analyses.selection import NothingToShow
from phema.shared.catalog import Transaction
from phema.shared.edm2.sampling.guide_compatibility import guide_mismatch
from phema.shared.metrics.registry import FIGURES
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.profile_curves import profile_curves
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions import previews, reconstructions
from phema.shared.submissions.errors import NoSnapshots, SubmissionError
from phema.shared.submissions.previews import DrawingWork, Speeds
from phema.shared.submissions.stored_inputs import StoredInputs, load_stored_inputs
from phema.shared.submissions.tensor_patterns import check_patterns

USUAL_SIGMA_REL = 0.1
"""EMA length of the page where its address names none and nothing is measured."""
_AVERAGES = 100
_GUIDES = 200
_JOBS = 8
_JOBS_READ = 200
"""A study may have enqueued many jobs since the latest that users asked for."""


@dataclass(frozen=True)
class NothingStored:
    """A run without snapshots."""

    run: Run
    sentence: str


@dataclass(frozen=True)
class Measured:
    """A figure over the EMA length at one time; `analysis` None if nothing is measured."""

    analysis: Analysis | None
    figures: tuple[tuple[str, str], ...]
    """Name and title of every figure that some finished evaluation of the run has."""
    by_time: dict[int, dict[str, int]]
    """By time and figure: number of evaluations of power-function EMAs."""


@dataclass(frozen=True)
class Guide:
    """A finished reconstruction that can guide this run's network."""

    id: str
    run: str
    label: str
    num_images: int
    sigma_rel: float | None


@dataclass(frozen=True)
class Previewed:
    """How long pictures would take, or one sentence that says why there are none."""

    plan: PreviewPlan | None
    obstacle: str | None


@dataclass(frozen=True)
class Explored:
    """One state of the explorer."""

    query: ExplorerQuery
    run: Run
    times: tuple[int, ...]
    """Images at which snapshots are stored, in order."""
    stored: tuple[str, ...]
    """Labels of the stored EMAs."""
    profile: Profile
    """Of all tensors that match no pattern."""
    num_images: int
    wanted: dict[str, Any]
    """The fields of a request that name the average and its time."""
    curves: ProfileCurves
    measured: Measured
    previewed: Previewed
    averages: Sequence[Reconstruction]
    """Reconstructions of the run, newest first."""
    guides: Sequence[Guide]
    jobs: Sequence[Job]
    label_dim: int | None
    """Number of classes; None if the network is unknown."""

    @property
    def sampler(self) -> dict[str, Any]:
        return self.query.sampler


def load(services: Services, run: str, query: ExplorerQuery) -> Explored | NothingStored:
    """Solves a plan: call it through the queue of plans. Raises SubmissionError, Problem, errors of catalog, store."""
    with services.catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run, services.calibrations)
        shown = runs.to_run(inputs.run)
        try:
            inputs.refuse_empty()
        except NoSnapshots as error:
            return NothingStored(shown, str(error))
        points = finished_evaluations(tx, [inputs.run])
        num_images = query.num_images or inputs.latest
        measured = _measured(tx, points, query.figure, num_images)
        sigma_rel = _best(measured.analysis) or USUAL_SIGMA_REL
        speed = reconstructions_service.bytes_per_second(tx)
        work = _drawing_work(tx, inputs.run, query, sigma_rel)
        speeds = previews_service.speeds(tx, inputs.run.id)
        averages = [
            reconstructions_service.to_reconstruction(summary.row, summary.plan_fields)
            for summary in tx.reconstructions.summaries(inputs.run.id, limit=_AVERAGES).items
        ]
        latest_jobs = _latest_jobs(tx, inputs.run.id)
        guides = _guides(tx, inputs.run)
    body = curves_request(query, sigma_rel)
    planned = reconstructions.plan(inputs, body.request)
    check_patterns(body.pattern_lists, services.store, planned.snapshots)
    found = to_profile_curves(planned, profile_curves(planned, inputs.bases, body.points), speed)
    times = sorted({s.num_images for s in inputs.snapshots} | {basis.num_images for basis in inputs.bases})
    config = _config(inputs.run)
    profile = planned.outputs[0].profile
    return Explored(
        query=query,
        run=shown,
        times=tuple(times),
        stored=_stored(inputs),
        profile=profile.default or profile,
        num_images=planned.num_images,
        wanted=query.wanted(sigma_rel) | {"num_images": planned.num_images},
        curves=found,
        measured=measured,
        previewed=_previewed(inputs, query, sigma_rel, work, speeds, planned),
        averages=averages,
        guides=guides,
        jobs=latest_jobs,
        label_dim=None if config is None else config.network.label_dim,
    )


def _stored(inputs: StoredInputs) -> tuple[str, ...]:
    ordered = sorted(inputs.snapshots, key=lambda s: (s.profile.sigma_rel or 1.0, s.profile.label))
    return tuple(dict.fromkeys(snapshot.profile.label for snapshot in ordered))


def _measured(tx: Transaction, points: Sequence[EvaluatedPoint], figure: str | None, num_images: int) -> Measured:
    names = {name for point in points for name in point.figures}
    ordered = sorted(names, key=lambda name: (list(FIGURES).index(name) if name in FIGURES else len(FIGURES), name))
    figures = tuple((name, figure_title(name)) for name in ordered)
    by_time: dict[int, dict[str, int]] = {}
    for point in points:
        if point.sigma_rel is not None:
            counts = by_time.setdefault(point.num_images, {})
            counts.update({name: counts.get(name, 0) + 1 for name in point.figures})
    try:
        found = analyse(ANALYSES["ema-length"], points, figure=figure, num_images=num_images)
    except NothingToShow:
        return Measured(None, figures, by_time)
    found = found.with_points(with_replicates(tx, found.selection.points, [found.selection.figure]))
    return Measured(Analysis.model_validate(found.document()), figures, by_time)


def _best(analysis: Analysis | None) -> float | None:
    """EMA length of the best measured value."""
    return None if analysis is None else next((row.sigma_rel for row in analysis.rows if row.best), None)


def _drawing_work(
    tx: Transaction, run: catalog.Run, query: ExplorerQuery, sigma_rel: float
) -> DrawingWork | SubmissionError:
    """The error if the pictures cannot be drawn; the page then says why in their place."""
    try:
        return previews.check(tx, run, preview_request(query, sigma_rel).sample)
    except SubmissionError as error:
        return error


def _previewed(
    inputs: StoredInputs,
    query: ExplorerQuery,
    sigma_rel: float,
    work: DrawingWork | SubmissionError,
    speeds: Speeds,
    planned: Plan,
) -> Previewed:
    if isinstance(work, SubmissionError):
        return Previewed(None, str(work))
    try:
        plan = reconstructions.plan(inputs, preview_request(query, sigma_rel).request)
    except SubmissionError as error:
        return Previewed(None, str(error))
    return Previewed(previews_service.to_preview_plan(plan, work, speeds), None)


def _latest_jobs(tx: Transaction, run_id: str) -> list[Job]:
    """The newest jobs on averages of the run that users asked for, without those that studies enqueued."""
    found = jobs.page(tx, kind=None, state=None, run=run_id, parent=None, cursor=None, limit=_JOBS_READ).items
    return [job for job in found if job.parent_id is None and job.kind not in ("train", "external")][:_JOBS]


def _guides(tx: Transaction, run: catalog.Run) -> list[Guide]:
    """The newest finished reconstructions of all runs whose networks can guide the run's."""
    config = _config(run)
    if config is None:
        return []
    rows = tx.reconstructions.newest_finished(_GUIDES)
    others = {row.id: row for row in tx.runs.with_ids({row.run_id for row in rows})}
    fitting = {}
    for other in others.values():
        theirs = _config(other)
        if theirs is not None and guide_mismatch(config.network, theirs.network) is None:
            fitting[other.id] = other.name
    return [
        Guide(row.id, fitting[row.run_id], Profile.model_validate(row.profile).label, row.num_images, row.sigma_rel)
        for row in rows
        if row.run_id in fitting
    ]


def _config(run: catalog.Run) -> RunConfig | None:
    """None for a run of another training loop whose configuration describes no network of phema."""
    try:
        return RunConfig.model_validate(run.config)
    except ValidationError:
        return None
