"""`phema reproduce fig3`: the paper's Figure 3 with small networks on the digits, through a service."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from phema.client.client import Client
from phema.client.response_models import Metrics
from phema.demos.service_for_command import service_for
from phema.errors import PhemaError
from phema.terminal.live_progress import follow_run
from phema.terminal.screen import Screen

PRESETS = {"C": "digits-c", "D": "digits-d", "E": "digits-e", "G": "digits-tiny"}
"""Configurations in the paper's figure, and the preset of each for the digits."""
BATCH = 64
POINTS = 48
"""Number of measurements over a run."""
KINDS = ("activation", "weight")
SETTLED = 0.25
"""Growth is measured from this share of the run on; before, the learning rate ramps up and initial values change."""


@dataclass(frozen=True)
class ConfigurationRun:
    """The run of one configuration, and how its magnitudes grew."""

    letter: str
    run: str
    history: Sequence[Metrics]

    def growth(self, kind: str) -> float:
        """Mean factor, over sides and resolutions, by which the largest magnitude grew since the run had settled."""
        last = self.history[-1]
        since = next(line for line in self.history if line.num_images >= SETTLED * last.num_images)
        names = [name for name in last.values if name.startswith(f"{kind}/") and name.endswith("/max")]
        return geometric_mean([self._value(last, name) / self._value(since, name) for name in names])

    def _value(self, line: Metrics, name: str) -> float:
        value = line.values[name]
        if value is None:
            raise PhemaError(f"run {self.run} diverged: {name} is not finite after {line.num_images:,} images")
        return value


@dataclass(frozen=True)
class Figure3:
    runs: Sequence[ConfigurationRun]
    picture: Path

    @property
    def document(self) -> dict[str, Any]:
        """Everything that the picture shows, and the growth of the magnitudes."""
        return {
            "picture": str(self.picture),
            "configurations": [
                {
                    "config": trained.letter,
                    "run": trained.run,
                    "num_images": trained.history[-1].num_images,
                    "growth": {kind: trained.growth(kind) for kind in KINDS},
                    "history": [
                        {"num_images": line.num_images, **{n: v for n, v in line.values.items() if _is_shown(n)}}
                        for line in trained.history
                    ],
                }
                for trained in self.runs
            ],
        }

    def say(self, view: Screen) -> None:
        rows = [(s.letter, *(f"x{s.growth(kind):.2f}" for kind in KINDS)) for s in self.runs]
        columns = ("CONFIG", "ACTIVATIONS", "WEIGHTS")
        view.say("")
        view.table(columns, rows, right=columns[1:])
        view.say("")
        images = self.runs[0].history[-1].num_images
        view.say(f"growth of the largest magnitudes over the last {1 - SETTLED:.0%} of {images:,} images;")
        view.say("the paper trains 2,147 million: expect its tendencies here, not its numbers")
        view.say(f"look at {self.picture}")


def reproduce_fig3(
    view: Screen, folder: Path, *, total_images: int = 76_800, url: str | None = None, token: str | None = None
) -> Figure3:
    """Train configurations C, D, E and G one after another; write `fig3.png` and `fig3.json` into `folder`.

    `total_images` must be a multiple of `BATCH` * `POINTS`. Raises PhemaError, or CannotStart when no service could
    be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = total_images // POINTS
    config = {
        "total_images": total_images,
        "batch_size": BATCH,
        "snapshot_every": total_images,
        "checkpoint_every": every * (POINTS // 4),
        "status_every": every,
        "magnitudes_every": every,
    }
    mark = secrets.token_hex(3)
    runs = []
    with service_for(view, url) as address, Client(address, token) as client:
        names = {letter: f"fig3-{letter.lower()}-{mark}" for letter in PRESETS}
        for letter, name in names.items():
            client.runs.create(name, PRESETS[letter], config)
        for number, (letter, name) in enumerate(names.items(), start=1):
            view.note(f"{number}/{len(names)}  configuration {letter}: train {name}")
            follow_run(client, view, name)
            runs.append(ConfigurationRun(letter, name, client.runs.metrics(name)))
    # Loads matplotlib, which nothing before this point needs.
    from phema.shared.pictures.training_history import magnitudes_by_configuration

    figure3 = Figure3(runs, folder / "fig3.png")
    figure3.picture.write_bytes(magnitudes_by_configuration({trained.letter: trained.history for trained in runs}))
    (folder / "fig3.json").write_text(json.dumps(figure3.document, indent=1) + "\n")
    return figure3


def _is_shown(name: str) -> bool:
    return name.partition("/")[0] in KINDS and name.endswith("/max")
