"""Compare a search for the best EMA length with a dense grid, on two training runs of the digits.

    python -m benchmarks.search [--repetitions 10] [--budget 3200] [--run NAME] [--json] [--cache FOLDER]

Both runs have the same length; one has the decaying learning rate of digits-tiny, the other a constant 0.02. During
training, averages of 49 lengths from 0.01 to 0.25 are tracked directly, so that no error of a reconstruction enters.
The grid evaluates every third length with equal seeds. Each search may choose among all 49 and uses seeds of its own.
The figure is the Fréchet distance in features of a classifier of digits (`frechet_digits`).

A search succeeds if the length that it answers is within the error of the grid's best. The judge is a third set of
pictures that neither has seen: there, the figure at the search's length exceeds that at the grid's best length by less
than two standard errors that the grid states for the difference of the two. Needs neither Ray nor a service. Pictures
are kept in the cache, so that a benchmark that was stopped continues.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.report import machine, show
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import open_dataset
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.sampling.sampler import sample
from phema.shared.metrics.feature_extraction import load_extractor
from phema.shared.metrics.figures import FigureValue, difference
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.reference_statistics import measure
from phema.shared.metrics.registry import METRICS, minimum_pictures
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_space import Axis, SearchSpace
from phema.shared.studies.search_steps import Evaluated, SearchProblem, next_step, pictures_drawn

METRIC = "frechet_digits"
WIDTHS = tuple(float(f"{width:.3g}") for width in np.geomspace(0.01, 0.25, 49))
GRID = WIDTHS[::3]
STEPS = 8
"""Of the sampler. Fewer than usual: the benchmark draws about 55,000 pictures per run."""
GRID_SEED, JUDGE_SEED, FIRST_SEARCH_SEED = 0, 500_000, 1_000_000
DECISIVE = 2.0
"""Standard errors of a difference below which two lengths cannot be told apart."""
CONSTANT_RATE = {"learning_rate": 0.02, "lr_decay_iterations": None}


class TrackedLengths(Axis):
    """The axis of EMA lengths, of which only those that were tracked exist."""

    def from_unit(self, position: float) -> float:
        wanted = super().from_unit(position)
        return min(WIDTHS, key=lambda width: abs(np.log(width / wanted)))


@dataclass
class TrainedRun:
    """Weights of every tracked length, and the pictures that were drawn from them."""

    name: str
    config: RunConfig
    folder: Path
    features: dict[tuple[float, int], NDArray[np.float32]] = field(default_factory=dict)
    """By length and first seed."""

    def __post_init__(self) -> None:
        self._dataset = open_dataset(self.config.dataset)
        self._extractor = load_extractor("digits", dataset=self._dataset)
        self._reference: Reference = measure(self._dataset, self._extractor)
        self._denoiser = build_denoiser(self.config.network)

    def figure(self, width: float, num_samples: int, seed: int) -> FigureValue:
        """The figure of the pictures from `seed` on. Pictures that exist are not drawn again."""
        metric = METRICS[METRIC]
        assert metric.compute is not None
        rows = self._rows(width, num_samples, seed)
        return metric.compute(rows, self._reference)[METRIC]

    def _rows(self, width: float, num_samples: int, seed: int) -> NDArray[np.float32]:
        file = self.folder / f"{self.name}-{width}-{seed}.npy"
        if (width, seed) not in self.features and file.exists():
            self.features[width, seed] = np.load(file)
        known = self.features.get((width, seed), np.empty((0, 64), np.float32))
        if len(known) < num_samples:
            self._denoiser.load_state_dict(load_file(_weights(self.folder, self.name, width)))
            pictures = sample(self._denoiser, seeds=range(seed + len(known), seed + num_samples), num_steps=STEPS)
            known = np.concatenate([known, self._extractor(pictures).numpy()])
            np.save(file, known)
            self.features[width, seed] = known
        return known[:num_samples]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repetitions", type=int, default=10)
    options.add_argument("--budget", type=int, default=3200, help="pictures of one search")
    options.add_argument("--grid-pictures", type=int, default=1000, help="pictures per point of the grid")
    options.add_argument("--judge-pictures", type=int, default=1500, help="pictures per length that the judge draws")
    options.add_argument("--run", choices=["decaying", "constant"], help="only this training run")
    options.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "phema-benchmark-search")
    options.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    chosen.cache.mkdir(parents=True, exist_ok=True)
    plain = resolve("digits-tiny")
    rows = []
    for name, config in (("decaying", plain), ("constant", plain.model_copy(update=CONSTANT_RATE))):
        if chosen.run not in (None, name):
            continue
        train(name, config, chosen.cache)
        run = TrainedRun(name, config, chosen.cache)
        rows += compare(run, chosen.repetitions, chosen.budget, chosen.grid_pictures, chosen.judge_pictures)
    show(machine(), rows, as_json=chosen.json)


def train(name: str, config: RunConfig, folder: Path) -> None:
    """Train and store the tracked averages, unless they are stored already."""
    if all(_weights(folder, name, width).exists() for width in WIDTHS):
        return
    state = TrainingState(config, torch.device("cpu"))
    tracked = PowerFunctionEMA(state.denoiser, WIDTHS)
    batches = Batches(open_dataset(config.dataset), config, WorkerGroup())
    while state.num_images < config.total_images:
        train_step(state, batches.at(state.num_images), config, WorkerGroup())
        tracked.update(state.num_images, config.batch_size)
        if state.num_images % 19_200 == 0:
            print(f"{name}: trained {state.num_images:,} of {config.total_images:,} images", file=sys.stderr)
    for index, width in enumerate(WIDTHS):
        tensors = {key: tensor.contiguous() for key, tensor in tracked.tensors(index).items()}
        save_file(tensors, _weights(folder, name, width))


def compare(run: TrainedRun, repetitions: int, budget: int, per_point: int, judged: int) -> list[dict[str, object]]:
    """One row per repetition."""
    grid = {width: run.figure(width, per_point, GRID_SEED) for width in GRID}
    best = min(grid, key=lambda width: grid[width].value)
    print(f"{run.name}: the grid's best is {best} of {_shown(grid)}", file=sys.stderr)
    rows = []
    for repetition in range(repetitions):
        answer, evaluated = search(run, budget, FIRST_SEARCH_SEED * (repetition + 1))
        found = answer.point[0]
        _, error = difference(run.figure(found, per_point, GRID_SEED), grid[best])
        worse, _ = difference(run.figure(found, judged, JUDGE_SEED), run.figure(best, judged, JUDGE_SEED))
        row: dict[str, object] = {
            "run": run.name,
            "repetition": repetition,
            "grid's best": f"{best:.3g}",
            "search": f"{found:.3g}",
            "interval": f"{answer.interval[0][0]:.3g}-{answer.interval[0][1]:.3g}",
            "worse by": worse,
            "grid's error": error or 0.0,
            "within the error": worse <= DECISIVE * (error or 0.0),
            "pictures": pictures_drawn(evaluated),
            "times fewer": len(GRID) * per_point / pictures_drawn(evaluated),
        }
        print(row, file=sys.stderr)
        rows.append(row)
    return rows


def search(run: TrainedRun, budget: int, seed: int) -> tuple[Answer, Sequence[Evaluated]]:
    space = SearchSpace((TrackedLengths("sigma_rel", WIDTHS[0], WIDTHS[-1]),))
    problem = SearchProblem(
        space=space,
        better=METRICS[METRIC].figures[0].better,
        budget=budget,
        minimum=minimum_pictures(METRIC),
        seed=seed,
    )
    evaluated: list[Evaluated] = []
    step = 0
    while not isinstance(found := next_step(problem, evaluated), Answer):
        evaluated += [
            Evaluated(step, point, found.num_samples, found.seed, run.figure(point[0], found.num_samples, found.seed))
            for point in found.points
        ]
        step += 1
    return found, evaluated


def _weights(folder: Path, name: str, width: float) -> Path:
    return folder / f"{name}-{width}.safetensors"


def _shown(grid: dict[float, FigureValue]) -> str:
    return ", ".join(f"{width:.3g}: {value.value:.4g} ± {value.standard_error:.2g}" for width, value in grid.items())


if __name__ == "__main__":
    main()
