"""`phema demo`: train, reconstruct and evaluate through a service, and write an HTML report."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from phema.client.client import Client
from phema.client.polling import POLL_SECONDS
from phema.demos.demo_results import DemoResults, Trial
from phema.demos.service_for_command import command, service_for
from phema.errors import PhemaError
from phema.terminal.formats import duration, figure
from phema.terminal.live_progress import download, follow_evaluations, follow_reconstructions, follow_run
from phema.terminal.screen import Screen

PRESET = "digits-tiny"
SIGMA_RELS = (0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.19, 0.22, 0.25)
RECIPE: dict[str, Any] = {"num_samples": 512, "num_steps": 12, "grid": 10}


@dataclass(frozen=True)
class FinishedDemo:
    """The demo's results, and the folder of its files."""

    results: DemoResults
    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        found = self.results
        return {
            "run": {"id": found.run.id, "name": found.run.name, "num_images": found.run.num_images},
            "best": {"sigma_rel": found.best.sigma_rel, "frechet": found.best.frechet},
            "trials": [
                {
                    "sigma_rel": trial.sigma_rel,
                    "frechet": trial.frechet,
                    "held_out_loss": trial.held_out_loss,
                    "predicted_error": trial.weights.predicted_error,
                    "reconstruction_id": trial.weights.id,
                    "evaluation_id": trial.evaluation.id,
                    "pictures": trial.pictures.name,
                }
                for trial in found.trials
            ],
            "recipe": found.best.evaluation.recipe,
            "seconds": {name: round(value, 1) for name, value in found.seconds.items()},
            "weights": str(found.weights_file),
            "report": str(self.folder / "report.html"),
        }

    def say(self, view: Screen) -> None:
        """Print the table of figures, where the report is, and what to type next."""
        found = self.results
        best_loss = min(trial.held_out_loss for trial in found.trials)
        rows = [
            (
                f"{trial.sigma_rel:.2f}",
                figure(trial.frechet) + (" *" if trial is found.best else "  "),
                figure(trial.held_out_loss) + (" *" if trial.held_out_loss == best_loss else "  "),
                "stored" if trial.sigma_rel in found.tracked else figure(trial.weights.predicted_error),
            )
            for trial in found.trials
        ]
        columns = ("SIGMA_REL", "FRECHET  ", "HELD_OUT_LOSS  ", "PREDICTED_ERROR")
        view.say("")
        view.table(columns, rows, right=columns)
        view.say("")
        view.say(f"best EMA length: σ_rel {found.best.sigma_rel:g}, chosen after training ({_took(found.seconds)})")
        view.say(
            f"look at {self.folder / 'report.html'}; then type `{command()} up`, and in a second terminal "
            f"`{command()} reconstruct {found.run.name} --sigma-rel 0.08,0.09,...,0.15`"
        )


def run_demo(view: Screen, folder: Path, *, url: str | None = None, token: str | None = None) -> FinishedDemo:
    """Train, reconstruct, evaluate, report. Uses the service at `url`, else the running one, else one of its own.

    Raises PhemaError, or phema.local_service.service.CannotStart when no service could be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with service_for(view, url) as address, Client(address, token) as client:
        ready = time.monotonic()
        results = _experiment(client, view, folder)
    results.seconds["starting the service"] = ready - started
    # Loads matplotlib and torch, unless `_load_report` has.
    from phema.demos.report import write_report

    view.note("drawing the report …")
    write_report(results, folder)
    results.seconds["everything"] = time.monotonic() - started
    finished = FinishedDemo(results, folder)
    (folder / "results.json").write_text(json.dumps(finished.document, indent=2) + "\n")
    return finished


def _experiment(client: Client, view: Screen, folder: Path) -> DemoResults:
    seconds: dict[str, float] = {}
    name = f"demo-{secrets.token_hex(3)}"
    view.note(f"1/3  train {name}: {PRESET}, two EMAs tracked")
    with _timed(seconds, "training"):
        client.runs.create(name, PRESET)
        threading.Thread(target=_load_report, args=[client, name], daemon=True).start()
        run = follow_run(client, view, name)
    view.note(f"2/3  reconstruct {len(SIGMA_RELS)} EMA lengths from the stored snapshots")
    plan = client.plan(name, SIGMA_RELS)
    with _timed(seconds, "reconstruction"):
        weights = follow_reconstructions(client, view, client.reconstruct(name, SIGMA_RELS, wait=False))
    view.note(f"3/3  evaluate each: {RECIPE['num_samples']} pictures, Fréchet distance, held-out loss")
    with _timed(seconds, "evaluation"):
        asked = [client.evaluate(item, wait=False, **RECIPE) for item in weights]
        evaluations = follow_evaluations(client, view, asked, "evaluating", "phema evaluations lists them")
    trials = []
    for item, evaluation in zip(weights, evaluations, strict=True):
        pictures = client.download(evaluation.id, folder / f"samples_{item.sigma_rel:.2f}.png")
        trials.append(Trial(item, evaluation, pictures))
    best = min(trials, key=lambda trial: trial.frechet)
    file = download(client, view, best.weights.id, folder / "best.safetensors")
    return DemoResults(run, client.runs.metrics(name), plan, trials, file, seconds)


def _load_report(client: Client, run: str) -> None:
    """Import what the report needs once the run trains, when a core has nothing to do."""
    with suppress(PhemaError):
        while client.runs.get(run).num_images == 0:
            time.sleep(POLL_SECONDS)
        import_module("phema.demos.report")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _took(seconds: dict[str, float]) -> str:
    parts = [f"{name} {duration(seconds[name])}" for name in ("training", "reconstruction", "evaluation")]
    return ", ".join([*parts, f"everything {duration(seconds['everything'])}"])
