"""`phema demo`: a run that never lowers its learning rate against one that does, EMA lengths chosen afterwards."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phema.client.client import Client
from phema.client.resources.analyses import Analysis, AnalysisRow
from phema.client.response_models import Run
from phema.client.service_discovery import running_url, state_dir
from phema.client.study_models import SearchResult
from phema.demos.demo_results import DemoResults, TrainedRun
from phema.demos.service_for_command import command, service_for
from phema.errors import PhemaError
from phema.terminal.analysis_output import FORMATS, show
from phema.terminal.formats import duration, figure
from phema.terminal.grid_of_evaluations import GridPoint, Weights, evaluate_grid
from phema.terminal.live_progress import download, follow_job, follow_run
from phema.terminal.screen import Screen

PRESET = "digits-tiny"
CONSTANT: dict[str, Any] = {"learning_rate": 0.02, "lr_decay_iterations": None}
"""A learning rate that rises to twice the preset's peak and stays there."""
SIGMA_RELS = (0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25)
RECIPE: dict[str, Any] = {"num_samples": 1000, "num_steps": 12, "grid": 10}
SEARCH: dict[str, Any] = {"budget": 6000, "num_steps": RECIPE["num_steps"]}


@dataclass(frozen=True)
class FinishedDemo:
    """The demo's results, and the folder of its files."""

    results: DemoResults
    folder: Path
    page: str
    """Address of the page of the best run."""
    stays: bool
    """Whether the service runs on after the demo."""

    @property
    def document(self) -> dict[str, Any]:
        return self.results.document

    def say(self, view: Screen) -> None:
        """Print the table of figures, what they mean, and where the report is."""
        found = self.results
        view.say("")
        show(view, found.analysis, [])
        view.say("")
        for words, one in (("keeps its learning rate", found.constant), ("lowers it", found.recipe)):
            view.say(f"{one.run.name} {words}: best at σ_rel {one.best.sigma_rel:g}, {_value(one.best)}")
        worse = found.between
        decided = "" if worse.tied else ", more than the error explains"
        view.say(f"difference {figure(worse.difference)} ± {figure(worse.difference_error)}{decided}")
        view.say(found.search.sentence)
        view.say(f"all lengths were chosen after training ({_took(found.seconds)})")
        view.say(
            f"look at {found.report}; then type `{command()} up`, and in a second terminal "
            f"`{command()} reconstruct {found.constant.run.name} --sigma-rel 0.08,0.09,...,0.15`"
        )
        view.say(f"the run in the browser{'' if self.stays else f', while `{command()} up` runs'}: {self.page}")


def run_demo(view: Screen, folder: Path, *, url: str | None = None, token: str | None = None) -> FinishedDemo:
    """Train, reconstruct, evaluate, report. Uses the service at `url`, else the running one, else one of its own.

    Raises PhemaError, or phema.local_service.service.CannotStart when no service could be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    stays = bool(url or running_url(state_dir()))
    with service_for(view, url) as address, Client(address, token) as client:
        ready = time.monotonic()
        results = _experiment(client, view, folder)
    results.seconds["starting the service"] = ready - started
    results.seconds["everything"] = time.monotonic() - started
    page = f"{address if stays else _usual_address()}/runs/{results.best.run}"
    finished = FinishedDemo(results, folder, page, stays)
    (folder / "results.json").write_text(json.dumps(finished.document, indent=2) + "\n")
    return finished


def _usual_address() -> str:
    """Where `phema up` serves the pages."""
    from phema.shared.settings import Settings

    settings = Settings()
    return f"http://{settings.api_host}:{settings.api_port or Settings.model_fields['api_port'].default}"


def _experiment(client: Client, view: Screen, folder: Path) -> DemoResults:
    seconds: dict[str, float] = {}
    mark = secrets.token_hex(3)
    configs: dict[str, dict[str, Any]] = {f"demo-{mark}-constant": CONSTANT, f"demo-{mark}-recipe": {}}
    names = list(configs)
    view.note(f"1/5  train {names[0]}, whose learning rate stays: {PRESET}")
    with _timed(seconds, "training"):
        for name, config in configs.items():
            client.runs.create(name, PRESET, config)
        constant = follow_run(client, view, names[0])
    view.note(f"2/5  train {names[1]}, whose rate falls; beside it, score {len(SIGMA_RELS)} EMA lengths of {names[0]}")
    with _timed(seconds, "second training"):
        _evaluate(client, view, names[:1], SIGMA_RELS)
        recipe = follow_run(client, view, names[1])
    view.note(f"3/5  score the same lengths of {names[1]}: {RECIPE['num_samples']:,} pictures each")
    with _timed(seconds, "evaluation"):
        _evaluate(client, view, names[1:], SIGMA_RELS)
    best = _best(client.analyses.get("ema-length", names))
    view.note(f"4/5  search the optimum of {best.run}: {SEARCH['budget']:,} pictures")
    with _timed(seconds, "search"):
        found = _search(client, view, best.run)
    analysis = client.analyses.get("ema-length", names)
    view.note("5/5  write the report")
    with _timed(seconds, "report"):
        for format in FORMATS:
            (folder / f"ema-length.{format}").write_bytes(client.analyses.file("ema-length", names, format))
        report = client.report(names, folder / "report.html")
    best = _best(analysis)
    weights = download(client, view, best.reconstruction_id, folder / "best.safetensors")
    first, second = _trained(constant, analysis), _trained(recipe, analysis)
    other = second if best.run == names[0] else first
    return DemoResults(first, second, analysis, other.best, found, weights, report, seconds)


def _search(client: Client, view: Screen, run: str) -> SearchResult:
    asked = client.search(run, (SIGMA_RELS[0], SIGMA_RELS[-1]), wait=False, **SEARCH)
    if not asked.done:
        follow_job(client, view, asked.job.id, "searching", f"watch it again with: phema search {asked.id}")
    found = client.searches.get(asked.id).result
    if found is None:
        raise PhemaError(f"search {asked.id} ended without an answer")
    return found


def _evaluate(client: Client, view: Screen, names: Sequence[str], sigma_rels: Sequence[float]) -> None:
    points = [GridPoint(Weights(name, width), RECIPE) for name in names for width in sigma_rels]
    evaluate_grid(client, view, points, "phema evaluations lists them")


def _best(analysis: Analysis) -> AnalysisRow:
    return next(row for row in analysis.rows if row.best)


def _trained(run: Run, analysis: Analysis) -> TrainedRun:
    return TrainedRun(run, [row for row in analysis.rows if row.run == run.name], analysis.better)


def _value(row: AnalysisRow) -> str:
    return figure(row.value) if row.standard_error is None else f"{figure(row.value)} ± {figure(row.standard_error)}"


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _took(seconds: dict[str, float]) -> str:
    parts = [f"{name} {duration(seconds[name])}" for name in ("training", "second training", "evaluation", "search")]
    return ", ".join([*parts, f"everything {duration(seconds['everything'])}"])
