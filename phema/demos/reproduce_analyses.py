"""`phema reproduce fig4|fig5|fig6`: the paper's analyses with small networks on the digits, through a service."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phema.client.client import Client
from phema.demos.service_for_command import service_for
from phema.terminal.analysis_output import show, show_profiles, write_files
from phema.terminal.grid_of_evaluations import GridPoint, Weights, evaluate_grid
from phema.terminal.live_progress import follow_reconstructions, follow_run
from phema.terminal.screen import Screen

PRESET = "digits-tiny"
BATCH = 64
SNAPSHOTS = 24
"""Snapshot times of a run."""
CONSTANT: dict[str, Any] = {"learning_rate": 0.02, "lr_decay_iterations": None}
RUNS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "constant": CONSTANT,
    "unconditional": {**CONSTANT, "network": {"label_dim": 0}},
}
"""Overrides of the preset, by the last part of the run's name."""
PATTERNS = ("unet.emb_*", "*.emb_linear*", "*.attn_*", "unet.enc.*", "unet.dec.4x4*", "unet.dec.8x8*", "unet.out_conv*")
"""Groups of tensors of Figure 5b. The paper varies single tensors; these are larger, so that fewer pictures decide."""


@dataclass(frozen=True)
class Study:
    """One analysis: its file's name, the runs that it shows, and the points to evaluate."""

    file: str
    analysis: str
    runs: Sequence[str]
    """Parts of RUNS."""
    points: Callable[[Mapping[str, str], int], list[GridPoint]]
    """From the full names of the runs and the number of images."""


@dataclass(frozen=True)
class ReproducedFigure:
    """The figure's analyses as JSON, by file name, and the files."""

    name: str
    runs: Mapping[str, str]
    recipe: Mapping[str, Any]
    analyses: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    files: Sequence[str] = ()

    @property
    def document(self) -> dict[str, Any]:
        return {
            "figure": self.name,
            "runs": dict(self.runs),
            "recipe": dict(self.recipe),
            "analyses": dict(self.analyses),
            "files": list(self.files),
        }

    def say(self, view: Screen) -> None:
        for path in self.files:
            view.say(f"look at {path}")


LENGTHS = (0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25)


def _lengths(names: Mapping[str, str], total_images: int) -> list[GridPoint]:
    return [GridPoint(Weights(names[run], width)) for run in ("recipe", "constant") for width in LENGTHS]


def _tensors(names: Mapping[str, str], total_images: int) -> list[GridPoint]:
    main = Weights(names["constant"], 0.10)
    own = [(pattern, width) for pattern in PATTERNS for width in (0.02, 0.05, 0.2)]
    changed = [Weights(names["constant"], 0.10, tensors=pair) for pair in own]
    return [GridPoint(weights) for weights in (main, *changed)]


def _times(names: Mapping[str, str], total_images: int) -> list[GridPoint]:
    times = [total_images * sixth // 6 for sixth in range(1, 7)]
    return [
        GridPoint(Weights(names[run], width, time))
        for run in ("recipe", "constant")
        for time in times
        for width in (0.03, 0.05, 0.10, 0.16, 0.20)
    ]


def _guidance(names: Mapping[str, str], total_images: int) -> list[GridPoint]:
    guide = Weights(names["unconditional"], 0.10)
    points = []
    for width in (0.03, 0.05, 0.08, 0.13, 0.20):
        weights = Weights(names["constant"], width)
        points.append(GridPoint(weights))
        points += [GridPoint(weights, {"guidance": weight}, guide) for weight in (1.25, 1.5, 2.0, 3.0)]
    return points


FIGURES: dict[str, tuple[Study, ...]] = {
    "fig5": (
        Study("fig5a", "ema-length", ("recipe", "constant"), _lengths),
        Study("fig5b", "tensors", ("constant",), _tensors),
        Study("fig5c", "training-time", ("recipe", "constant"), _times),
    ),
    "fig6": (Study("fig6", "guidance", ("constant",), _guidance),),
}
PROFILES = (0.02, 0.03, 0.07, 0.13, 0.18, 0.25)
"""EMA lengths of Figure 4; 0.05 and 0.10 are stored."""


def reproduce(
    view: Screen,
    folder: Path,
    figure: str,
    *,
    total_images: int = 76_800,
    num_samples: int = 1000,
    url: str | None = None,
    token: str | None = None,
) -> ReproducedFigure:
    """Train the runs of `figure`, evaluate its points, and write data and pictures into `folder`.

    `figure` is fig4, fig5 or fig6. `total_images` must be a multiple of BATCH * SNAPSHOTS. Raises PhemaError, or
    CannotStart when no service could be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    studies = FIGURES.get(figure, ())
    parts = list(dict.fromkeys(part for study in studies for part in study.runs)) or ["constant"]
    if figure == "fig6":
        parts.append("unconditional")
    recipe = {"num_samples": num_samples, "num_steps": 12}
    mark = secrets.token_hex(3)
    names = {part: f"{figure}-{mark}-{part}" for part in parts}
    with service_for(view, url) as address, Client(address, token) as client:
        _train(client, view, names, total_images)
        made = ReproducedFigure(figure, names, recipe)
        if figure == "fig4":
            made = _profiles(client, view, folder, made)
        for number, study in enumerate(studies, start=1):
            view.note(f"{number}/{len(studies)}  {study.file}: {study.analysis}")
            made = _study(client, view, folder, made, study, total_images)
    (folder / f"{figure}-results.json").write_text(json.dumps(made.document, indent=1) + "\n")
    return made


def _train(client: Client, view: Screen, names: Mapping[str, str], total_images: int) -> None:
    every = total_images // SNAPSHOTS
    times = {"total_images": total_images, "snapshot_every": every, "checkpoint_every": total_images}
    for part, name in names.items():
        client.runs.create(name, PRESET, {**RUNS[part], **times, "status_every": every})
    for name in names.values():
        follow_run(client, view, name)


def _profiles(client: Client, view: Screen, folder: Path, made: ReproducedFigure) -> ReproducedFigure:
    run = made.runs["constant"]
    follow_reconstructions(client, view, client.reconstruct(run, PROFILES, wait=False))
    found = client.analyses.profiles(run)
    if not view.as_json:
        show_profiles(view, found, [])
    files = write_files(client, "profiles", [run], folder, stem="fig4")
    return ReproducedFigure(made.name, made.runs, {}, {"fig4": found}, files)


def _study(
    client: Client, view: Screen, folder: Path, made: ReproducedFigure, study: Study, total_images: int
) -> ReproducedFigure:
    points = study.points(made.runs, total_images)
    evaluate_grid(client, view, [GridPoint(p.weights, {**p.recipe, **made.recipe}, p.guide) for p in points])
    runs = [made.runs[part] for part in study.runs]
    found = client.analyses.get(study.analysis, runs)
    if not view.as_json:
        show(view, found, [])
    files = write_files(client, study.analysis, runs, folder, stem=study.file)
    return ReproducedFigure(
        made.name,
        made.runs,
        made.recipe,
        {**made.analyses, study.file: found.to_json()},
        [*made.files, *files],
    )
