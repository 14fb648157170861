"""Compare a run whose learning rate decays with one whose rate stays constant, over EMA lengths chosen afterwards.

    python -m benchmarks.constant_learning_rate FOLDER [--arms recipe,constant] [--seeds 0,1,2] [--report docs/pictures]

Trains digits-tiny for 76,800 images once per arm and seed of training. Tracks averages of all EMA lengths directly, so
that no reconstruction error enters, and keeps the plain last weights. Each set of weights draws three blocks of 2,000
pictures with 12 steps; all sets of weights use the same seeds of sampling. FOLDER keeps the pictures, and a later call
continues there. One training and its pictures take about five minutes on one idle core.

The score is the Fréchet distance in the features of the digits classifier, of all pictures. Errors of means and of
differences are those over trainings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.averaging_instead_of_decay import LAST, score, table, write
from benchmarks.report import machine
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import open_dataset
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.sampler import sample
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig

ARMS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "constant": {"learning_rate": 0.02, "lr_decay_iterations": None},
    "recipe at twice the rate": {"learning_rate": 0.02},
}
"""Overrides of the preset. The preset's rate rises to 0.01, then falls to 0.005 with the root of time."""
WIDTHS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25)
BLOCKS, PICTURES, STEPS = 3, 2000, 12


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--arms", default="recipe,constant", help="comma-separated names of ARMS")
    options.add_argument("--seeds", default="0,1,2", help="seeds of training")
    options.add_argument("--report", type=Path, help="write figures and pictures into this folder")
    options.add_argument("--score-only", action="store_true", help="score the pictures that FOLDER has")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    arms, seeds = chosen.arms.split(","), list(map(int, chosen.seeds.split(",")))
    if not chosen.score_only:
        for seed in seeds:
            for arm in arms:
                draw_arm(chosen.folder, arm, seed)
    pictures = {(arm, seed): _read(_path(chosen.folder, arm, seed)) for arm in arms for seed in seeds}
    pictures = {key: found for key, found in pictures.items() if found}
    scores = score(pictures)
    for name, value in machine().items():
        print(f"{name:10} {value}")
    print("\n".join(table(scores)))
    if chosen.report:
        conditions = {"pictures": BLOCKS * PICTURES, "steps": STEPS, "arms": {arm: ARMS[arm] for arm in arms}}
        write(scores, pictures, chosen.report, {**machine(), **conditions, "seeds_of_training": seeds})


def _path(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm.replace(' ', '-')}-{seed}.npz"


def _read(path: Path) -> dict[float, np.ndarray[Any, Any]]:
    """Pictures by EMA length; empty if the file does not exist."""
    if not path.exists():
        return {}
    with np.load(path) as found:
        return {float(width): found[width] for width in found.files}


def draw_arm(folder: Path, arm: str, seed: int) -> None:
    """Train one run and write its pictures, `ARM-SEED.npz`: float32 [BLOCKS, PICTURES, 1, 8, 8] per EMA length."""
    path = _path(folder, arm, seed)
    if path.exists():
        return
    started = time.monotonic()
    config = resolve("digits-tiny", {**ARMS[arm], "seed": seed})
    drawn = {}
    for width, denoiser in trained(config):
        pictures = sample(denoiser, seeds=range(BLOCKS * PICTURES), num_steps=STEPS)
        drawn[f"{width:g}"] = pictures.numpy().reshape(BLOCKS, PICTURES, 1, 8, 8)
        print(f"{arm} {seed}: drew σ_rel {width:g}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **drawn)  # type: ignore[arg-type]
    part.rename(path)


def trained(config: RunConfig) -> Iterator[tuple[float, Denoiser]]:
    """Train to the end, then yield the last weights and every average. The network is the same object each time."""
    state, group = TrainingState(config, torch.device("cpu")), WorkerGroup()
    averages = PowerFunctionEMA(state.denoiser, WIDTHS)
    batches = Batches(open_dataset(config.dataset), config, group)
    while state.num_images < config.total_images:
        train_step(state, batches.at(state.num_images), config, group)
        averages.update(state.num_images, config.batch_size)
    yield LAST, state.denoiser
    for index, width in enumerate(WIDTHS):
        state.denoiser.load_state_dict(averages.tensors(index))
        yield width, state.denoiser


if __name__ == "__main__":
    main()
