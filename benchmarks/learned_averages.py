"""Compare learned averages with the best EMA length, on data that the search has not seen.

    python -m benchmarks.learned_averages FOLDER [--tasks classifier,language-model,digits] [--report docs/pictures]

Each task trains a small network at constant learning rate, several times with different seeds, and stores two EMAs at
32 times. `phema.learn_average` then searches for the mixture with the lowest loss on one half of the unseen data. The
other half compares it with the EMA length that is best on the first half. FOLDER keeps every result, and a later call
continues there.

- classifier: examples/classifier.py, cross-entropy on 398 pictures, judged on 399.
- language-model: examples/language_model.py, cross-entropy on 284 sequences of 64 characters, judged on as many.
- digits: the diffusion model digits-tiny, denoising loss at 4 noise levels on 148 pictures, judged on 149.

Errors of differences are over seeds of training. A seed takes about 15, 55 and 75 s of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import phema
from benchmarks.report import machine, show
from examples import classifier, language_model
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import open_dataset
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.training.loss import denoising_loss
from phema.shared.metrics.held_out_loss import sigma_grid
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig

STORED, TIMES = (0.05, 0.10), 32
Losses = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Task:
    """What is trained, and the losses of examples of two disjoint sets: of the search and of the judge."""

    train: Callable[[Path, int], None]
    losses: Callable[[], tuple[Losses, Losses]]
    seeds: int


def train_loop(folder: Path, model: nn.Module, steps: int, batch: int, step_of: Callable[[int], None]) -> None:
    """Call `step_of` for each step, and store two EMAs at 32 times."""
    ema = phema.PowerFunctionEMA(model, STORED)
    with phema.SnapshotWriter(folder, total_images=steps * batch) as writer:
        for step in range(1, steps + 1):
            step_of(step)
            ema.update(step * batch)
            if step % (steps // TIMES) == 0:
                writer.save(ema, dtype="float32")


def train_classifier(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    pictures, classes, *_ = classifier.digits()
    model = classifier.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step_of(step: int) -> None:
        batch = torch.randint(len(pictures), [classifier.BATCH])
        optimizer.zero_grad()
        noisy = pictures[batch] + 0.2 * torch.randn(classifier.BATCH, 64)
        cross_entropy(model(noisy), classes[batch]).backward()
        optimizer.step()

    train_loop(folder, model, classifier.STEPS, classifier.BATCH, step_of)


def classifier_losses() -> tuple[Losses, Losses]:
    *_, pictures, classes = classifier.digits()
    model = classifier.network()

    @torch.no_grad()
    def losses(weights: dict[str, Tensor], part: slice) -> Tensor:
        model.load_state_dict(weights)
        return cross_entropy(model(pictures[part]), classes[part], reduction="none")

    half = len(pictures) // 2
    return lambda w: losses(w, slice(half)), lambda w: losses(w, slice(half, None))


def train_language_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    text, _ = language_model.texts()
    model = language_model.LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=language_model.RATE)

    def step_of(step: int) -> None:
        optimizer.param_groups[0]["lr"] = language_model.RATE * min(step / language_model.WARMUP, 1)
        optimizer.zero_grad()
        starts = torch.randint(len(text) - language_model.CONTEXT, [language_model.BATCH])
        language_model.loss_of(model, language_model.sequences(text, starts)).backward()
        optimizer.step()

    train_loop(folder, model, language_model.STEPS, language_model.BATCH, step_of)


def language_model_losses() -> tuple[Losses, Losses]:
    _, text = language_model.texts()
    model = language_model.LanguageModel()
    starts = torch.arange(0, len(text) - language_model.CONTEXT, language_model.CONTEXT)

    @torch.no_grad()
    def losses(weights: dict[str, Tensor], part: Tensor) -> Tensor:
        model.load_state_dict(weights)
        found = []
        for some in part.split(256):
            batch = language_model.sequences(text, some)
            each = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            found.append(each.view(len(some), -1).mean(1))
        return torch.cat(found)

    # Blocks of 50 sequences alternate, so that both halves have texts of all kinds, and few neighbours.
    first = torch.arange(len(starts)) // 50 % 2 == 0
    return lambda w: losses(w, starts[first]), lambda w: losses(w, starts[~first])


def digits_config(seed: int) -> RunConfig:
    changed = {"learning_rate": 0.02, "lr_decay_iterations": None, "seed": seed, "total_images": 19_200}
    return resolve("digits-tiny", changed)


def train_digits(folder: Path, seed: int) -> None:
    config = digits_config(seed)
    state, group = TrainingState(config, torch.device("cpu")), WorkerGroup()
    batches = Batches(open_dataset(config.dataset), config, group)

    def step_of(step: int) -> None:
        train_step(state, batches.at(state.num_images), config, group)

    train_loop(folder, state.denoiser, config.total_images // config.batch_size, config.batch_size, step_of)


def digits_losses() -> tuple[Losses, Losses]:
    config = digits_config(0)
    kept = open_dataset(config.dataset).held_out
    images, numbers = kept.batch(np.arange(len(kept)))
    levels = sigma_grid(config.p_mean, config.p_std, 4)
    clean = torch.from_numpy(images).repeat(len(levels), 1, 1, 1)
    labels = one_hot(torch.from_numpy(numbers), 10).float().repeat(len(levels), 1)
    sigma = torch.tensor(levels).repeat_interleave(len(images))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoiser = build_denoiser(config.network).eval()

    @torch.no_grad()
    def losses(weights: dict[str, Tensor], chosen: Tensor) -> Tensor:
        """The mean over noise levels, for each picture."""
        denoiser.load_state_dict(weights)
        part = chosen.repeat(len(levels))
        found = denoising_loss(denoiser, clean[part], labels[part], sigma=sigma[part], noise=noise[part])
        return found.weighted_mse.view(len(levels), -1).mean(0)

    first = torch.arange(len(images)) < len(images) // 2
    return lambda w: losses(w, first), lambda w: losses(w, ~first)


TASKS = {
    "classifier": Task(train_classifier, classifier_losses, 6),
    "language-model": Task(train_language_model, language_model_losses, 3),
    "digits": Task(train_digits, digits_losses, 3),
}


def measure(task: str, seed: int, evaluations: int) -> dict[str, Any]:
    """Train, learn and compare. The result is that of `phema.learn_average`, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        TASKS[task].train(run, seed)
        score, held_out = TASKS[task].losses()
        found = phema.learn_average(
            phema.open(run), score, held_out, output=run / "learned.safetensors", evaluations=evaluations
        )
    # The file is gone with its folder.
    return {"task": task, "seed": seed, **{name: value for name, value in found.to_json().items() if name != "file"}}


def results(folder: Path, tasks: list[str], evaluations: int) -> list[dict[str, Any]]:
    """Results of all tasks and seeds. Those in `folder` are not measured again."""
    found = []
    for task in tasks:
        for seed in range(TASKS[task].seeds):
            path = folder / f"{task}-{seed}-{evaluations}.json"
            if not path.exists():
                made = measure(task, seed, evaluations)
                print(f"{task} {seed}: {made['held_out']}", file=sys.stderr, flush=True)
                part = path.with_suffix(".part")
                part.write_text(json.dumps(made))
                os.replace(part, path)
            found.append(json.loads(path.read_text()))
    return found


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per task: means over seeds, and differences with their standard errors over seeds."""
    table = []
    for task in dict.fromkeys(result["task"] for result in found):
        chosen = [result for result in found if result["task"] == task]
        searched = np.array([result["score"] - result["best_length_score"] for result in chosen])
        judged = np.array([result["held_out"]["difference"] for result in chosen])
        within = np.array([result["held_out"]["standard_error"] for result in chosen])
        table.append(
            {
                "task": task,
                "seeds": len(chosen),
                "best sigma_rel": f"{np.mean([result['held_out']['best_length'] for result in chosen]):.4f}",
                "learned": f"{np.mean([result['held_out']['learned'] for result in chosen]):.4f}",
                "difference": _words(judged),
                "difference on the search's data": _words(searched),
                "error of one difference, over examples": f"{np.sqrt(np.mean(within**2)):.4f}",
                "told apart: better, worse": f"{np.sum(judged < -2 * within)}, {np.sum(judged > 2 * within)}",
            }
        )
    return table


def _words(values: np.ndarray[Any, Any]) -> str:
    return f"{values.mean():+.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (default %(default)s)")
    parser.add_argument("--evaluations", type=int, default=60, help="budget of each search (default %(default)s)")
    parser.add_argument("--report", type=Path, help="write learned_averages.json into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)  # networks this small only lose by sharing their work
    options.folder.mkdir(parents=True, exist_ok=True)
    found = results(options.folder, options.tasks.split(","), options.evaluations)
    table = rows(found)
    if options.report:
        document = {**machine(), "rows": table, "results": found}
        (options.report / "learned_averages.json").write_text(json.dumps(document, indent=1) + "\n")
    show(machine(), table, as_json=options.json)


if __name__ == "__main__":
    main()
