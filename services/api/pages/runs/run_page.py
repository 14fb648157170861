"""`/runs/{run}`: one run, live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from phema.services.api.analyses import service as analyses
from phema.services.api.bases import service as bases
from phema.services.api.evaluations import service as evaluations
from phema.services.api.http.problems import NotFinished
from phema.services.api.http.schema_base import RunRef
from phema.services.api.jobs import logs
from phema.services.api.jobs import service as jobs
from phema.services.api.jobs.schemas import JobDetail
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.equivalents import Equivalent
from phema.services.api.pages.rendering.page import Pages
from phema.services.api.pages.runs import configuration_table
from phema.services.api.pages.runs.lineage import lineage
from phema.services.api.pages.runs.snapshot_timeline import snapshot_timeline
from phema.services.api.pages.runs.training_curves import training_curves
from phema.services.api.reconstructions import service as reconstructions
from phema.services.api.run_events import service as run_events
from phema.services.api.runs import service
from phema.services.api.runs.overview import RunOverview, overviews
from phema.services.api.runs.schemas import Run
from phema.shared.analyses.kinds import Analysed
from phema.shared.analyses.tables import Row
from phema.shared.catalog import JobKind, RunState, Transaction
from phema.shared.metrics.registry import ranking_figure

router = APIRouter()
FEW = 8
REFRESH = "x-phema-refresh"
"""Header of requests by the page's script (`live.js`), which replaces live parts only."""
LOG_LINES = 20
"""Lines of the latest attempt's log; a link leads to all of them."""
"""Rows of the tables of results, which link to pages with all of them."""
EVENTS = 12
"""Latest events that are shown; the command and the API have all of them."""
MOST_JOBS = 10
"""Jobs whose attempts are shown: a run has one, and another for each time it was resumed."""


@dataclass(frozen=True)
class Lengths:
    """The analysis of the run's evaluations over the EMA length."""

    found: Analysed

    @property
    def best(self) -> Row:
        return next(row for row in self.found.rows if row.compared.is_best)

    @property
    def tied(self) -> int:
        """How many others cannot be told from the best."""
        return sum(row.compared.tied for row in self.found.rows) - 1


@router.get("/runs/{run:run}")
def run_page(run: RunRef, request: Request, pages: PagesDep) -> HTMLResponse:
    with pages.services.catalog.transaction(read_only=True) as tx:
        row = tx.runs.get(run)
        found = service.to_run(row)
        context: dict[str, Any] = {
            "run": found,
            "overview": overviews(tx, [found])[row.id],
            "curves": training_curves(tx, row),
            "training_jobs": _training_jobs(tx, found),
            "events": run_events.latest(tx, row.id, EVENTS)[::-1],
            "lineage": lineage(tx, row),
            "timeline": snapshot_timeline(tx, row),
            "bases": bases.page(tx, row.id, cursor=None, limit=FEW),
            "reconstructions": reconstructions.page(tx, row.id, cursor=None, limit=FEW),
            "evaluations": evaluations.page(tx, run=row.id, cursor=None, limit=FEW),
            "lengths": _lengths(tx, found),
        }
    logged = _logged_attempt(context["training_jobs"])
    # A refresh does not replace the log, so it must not ask the store for it, at each change and for each viewer.
    shows_log = REFRESH not in request.headers
    preset = configuration_table.preset_of(row.config)
    configs = [row.config] if preset is None else [row.config, preset]
    ranking = {one.id: ranking_figure(one.figures) for one in context["evaluations"].items if one.figures}
    return pages.render(
        request,
        "run.html",
        **context,
        logged=logged,
        log_lines=logs.last_lines(pages.services, logged, LOG_LINES) if logged and shows_log else "",
        ranking=ranking,
        fields=configuration_table.table(configs),
        can_be_extended=can_be_extended(found),
        can_be_sampled=found.origin == "trained" or "network" in row.config,
        same_by=_same_by(request, pages, found, context["overview"]),
    )


def _training_jobs(tx: Transaction, run: Run) -> list[JobDetail]:
    """The jobs that trained the run, newest first, with their attempts."""
    kind = JobKind.TRAIN if run.origin == "trained" else JobKind.EXTERNAL
    return [jobs.detail(tx, row.id) for row in tx.jobs.list(kind=kind, run_id=run.id, limit=MOST_JOBS).items]


def _logged_attempt(training_jobs: list[JobDetail]) -> logs.LoggedAttempt | None:
    """The latest attempt, if there is one that has a log."""
    for job in training_jobs:
        if job.kind is JobKind.TRAIN and job.run_id is not None and job.attempt_history:
            last = job.attempt_history[-1]
            return logs.LoggedAttempt(job.id, job.run_id, last.number, last.submission_id, last.ended_at)
    return None


def _lengths(tx: Transaction, run: Run) -> Lengths | None:
    """None before the first evaluation."""
    try:
        return Lengths(analyses.analysed(tx, "ema-length", [run.id], figure=None, num_images=None))
    except NotFinished:
        return None


def _changes(request: Request, pages: Pages, run: Run) -> list[Equivalent]:
    """What the buttons of a run that phema trains do, in its present state."""
    if run.origin != "trained":
        return []
    name, path, found = run.name, f"/v1/runs/{run.name}", []
    can = [
        ("Pause it", "pause", run.state in (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)),
        ("Resume it", "resume", run.state in (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED)),
    ]
    for title, verb, possible in can:
        if possible:
            address, python, command = f"{path}/{verb}", f"client.runs.{verb}({name!r})", ["runs", verb, name]
            found.append(pages.equivalent(request, title, address, python, command, method="POST"))
    longer = 2 * run.total_images
    if can_be_extended(run):
        python, command = f"client.runs.extend({name!r}, {longer})", ["runs", "extend", name, str(longer)]
        body = {"total_images": longer}
        found.append(pages.equivalent(request, "Train it longer", f"{path}/extend", python, command, body))
    fork, changed = f"{name}-fork", {"total_images": longer}
    python, command = f"client.runs.fork({name!r}, {fork!r}, {changed})", ["runs", "fork", name, fork]
    command += ["--set", f"total_images={longer}"]
    wanted = {"name": fork, "config": changed}
    found.append(pages.equivalent(request, "Fork it", f"{path}/forks", python, command, wanted))
    return found


def can_be_extended(run: Run) -> bool:
    """A running training has read its length."""
    return run.origin == "trained" and run.state not in (RunState.STARTING, RunState.RUNNING)


def _same_by(request: Request, pages: Pages, run: Run, overview: RunOverview) -> list[Equivalent]:
    name, path = run.name, f"/v1/runs/{run.name}"
    sigma_rel = overview.best.evaluation.sigma_rel if overview.best else None
    width = f"{sigma_rel or 0.1:g}"
    return [
        pages.equivalent(request, "This run", path, f"client.runs.get({name!r})", ["runs", "show", name]),
        pages.equivalent(
            request,
            "What happened to it",
            f"{path}/event-log",
            f"client.runs.events({name!r})",
            ["runs", "events", name],
        ),
        *_changes(request, pages, run),
        pages.equivalent(
            request, "Its history", f"{path}/metrics", f"client.runs.metrics({name!r})", ["runs", "metrics", name]
        ),
        pages.equivalent(
            request,
            "Its snapshots",
            f"{path}/snapshots",
            f"client.runs.snapshots({name!r})",
            ["runs", "snapshots", name],
        ),
        pages.equivalent(
            request,
            "Evaluate an EMA length",
            "/v1/sweeps",
            f"client.sweep({name!r}, sigma_rel=[{width}])",
            ["sweep", name, "--sigma-rel", width],
            {"run": name, "sigma_rel": [float(width)]},
        ),
    ]
