"""Compare learning-rate decays of real training with decays chosen afterwards, on a small language model.

The transformer of examples/language_model.py learns the characters of Python's help texts at constant learning rate.
From 80 % on, branches of the same run, on the same batches, decay the learning rate to 0. The constant run is then
averaged with the profile `lr_decay`: from 32 times of two EMAs, and from 64 raw checkpoints, which are as many bytes.
Scores are cross-entropies in nats per character on texts that no training has seen, with standard errors over seeds;
differences are paired by seed. Each reconstruction is also compared with the same average, tracked at every step.

    python -m benchmarks.language_model_decay [--seeds 4] [--processes 2] [--report docs/pictures] [--json]

One seed takes about 70 s of processor time.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import machine, show
from examples import language_model as example
from phema.shared.edm2.averaging.decay_shapes import SHAPES
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.averaging.posthoc import WeightErrorFit
from phema.shared.edm2.averaging.random_walk import RandomWalk, TimeGrid
from phema.shared.pictures.measured import FigureName, Measured
from phema.shared.pictures.run_comparison import ComparedRow, run_comparison
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

BATCH, STEPS = example.BATCH, example.STEPS
START = STEPS * 4 // 5
STORED = (0.05, 0.10)
EMA_EVERY, RAW_EVERY = STEPS // 32, STEPS // 64
COMPARED = ("linear", "cosine", "1-sqrt")
WIDTHS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20)
State = dict[str, Tensor]
Scores = dict[str, float]
"""By what was scored. Keys that begin with `error` are relative errors of the tail."""


def profile(shape: str) -> Profile:
    """The decay over the last fifth."""
    return Profile.model_validate({"kind": "lr_decay", "shape": shape, "length_images": (STEPS - START) * BATCH})


class Training:
    """The example's training. A copy continues it in the same way."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.model, self.text = seed, example.LanguageModel(), example.texts()[0]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=example.RATE)
        self.ema = PowerFunctionEMA(self.model, STORED)

    def copied(self) -> Training:
        other = Training(self.seed)
        other.model.load_state_dict(self.model.state_dict())
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.ema.load_state_dict(copy.deepcopy(self.ema.state_dict()))
        return other

    def run(self, steps: Iterable[int], multiplier: Callable[[int], float], after: Callable[[int], None]) -> None:
        """Each step has a batch of its own, the same in every branch."""
        for step in steps:
            generator = torch.Generator().manual_seed(1_000_000 * self.seed + step)
            starts = torch.randint(len(self.text) - example.CONTEXT, [BATCH], generator=generator)
            self.optimizer.param_groups[0]["lr"] = example.RATE * multiplier(step)
            self.optimizer.zero_grad()
            example.loss_of(self.model, example.sequences(self.text, starts)).backward()
            self.optimizer.step()
            self.ema.update(step * BATCH)
            after(step)


@dataclass
class Stored:
    """What the constant run stores, and the wanted averages, tracked at every step in float64."""

    training: Training
    averages: dict[StoredSnapshot, State] = field(default_factory=dict)
    checkpoints: dict[StoredSnapshot, State] = field(default_factory=dict)
    direct: dict[str, State] = field(default_factory=dict)
    at_start: Training | None = None

    def __call__(self, step: int) -> None:
        state, ema = self.training.model.state_dict(), self.training.ema
        if step % EMA_EVERY == 0:
            for index, sigma_rel in enumerate(STORED):
                self.averages[_snapshot(step, Profile.power(sigma_rel))] = copied(ema.tensors(index))
        if step % RAW_EVERY == 0:
            self.checkpoints[_snapshot(step, Profile(kind="raw"))] = copied(state)
        if step == START:
            self.at_start = self.training.copied()
        if step > START:
            for shape in COMPARED:
                before, now = weighting(profile(shape), STEPS * BATCH).tail(np.array([step - 1, step]) * BATCH)
                total = self.direct.setdefault(shape, {n: torch.zeros_like(v).double() for n, v in state.items()})
                for name, value in state.items():
                    total[name] += (before - now) * value


def copied(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _snapshot(step: int, profile: Profile) -> StoredSnapshot:
    return StoredSnapshot(f"{step}-{profile.label}", step * BATCH, profile, "", 1, "")


def reconstructed(stored: Mapping[StoredSnapshot, State], profile: Profile) -> State:
    planned = plan(list(stored), [profile])
    states = [stored[snapshot] for snapshot in planned.snapshots]
    coefficients = planned.outputs[0].coefficients
    return {
        name: sum(c * state[name].double() for c, state in zip(coefficients, states, strict=True)).float()  # type: ignore[union-attr]
        for name in states[0]
    }


def distance(a: State, b: State) -> float:
    return float(sum(((a[name].double() - b[name].double()) ** 2).sum() for name in b)) ** 0.5


def expected_tail_error(stored: Sequence[StoredSnapshot], shape: str) -> float:
    """By calculation: norm of the missed tail, relative to what the decay changes, 1 - tail. All images count alike."""
    weightings, wanted = [weighting(s.profile, s.num_images) for s in stored], weighting(profile(shape), STEPS * BATCH)
    walk = RandomWalk(1.0, 0.0, STEPS * BATCH)
    fit = WeightErrorFit(weightings, [wanted], movement=walk, noise=np.full(len(stored), 1e-9))
    grid = TimeGrid.of(walk, [*weightings, wanted])
    tail = grid.tails([wanted])[0]
    missed = fit.solve()[0] @ grid.tails(weightings) - tail
    return float(np.sqrt((missed**2 @ grid.shares) / ((1 - tail) ** 2 @ grid.shares)))


def one_seed(seed: int) -> Scores:
    """Scores and errors of one seed of training."""
    torch.set_num_threads(1)
    training = Training(seed)
    stored = Stored(training)
    training.run(range(1, STEPS + 1), lambda step: min(step / example.WARMUP, 1.0), stored)
    last = copied(training.model.state_dict())
    scores = {"constant rate, last weights": example.score(last)}
    for sigma_rel in WIDTHS:
        made = reconstructed(stored.averages, Profile.power(sigma_rel))
        scores[f"sigma_rel {sigma_rel:g}"] = example.score(made)
    for shape in COMPARED:
        for name, source in (("two EMAs", stored.averages), ("raw checkpoints", stored.checkpoints)):
            made = reconstructed(source, profile(shape))
            scores[f"{shape}: lr_decay from {name}"] = example.score(made)
            moved = distance(last, stored.direct[shape])
            scores[f"error of {shape} from {name}"] = distance(made, stored.direct[shape]) / moved
        assert stored.at_start is not None, "START is one of the steps"
        branch, multiplier = stored.at_start.copied(), SHAPES[shape].multiplier
        branch.run(
            range(START + 1, STEPS + 1),
            # Averaging, too, scales the update of a step by the multiplier at its beginning.
            lambda step, m=multiplier: float(m(np.array((step - 1 - START) / (STEPS - START)))),  # type: ignore[misc]
            lambda step: None,
        )
        scores[f"{shape}: real decay"] = example.score(branch.model.state_dict())
        scores[f"{shape}: real decay, EMA 0.05"] = example.score(branch.ema.tensors(0))
    return scores


def measure(seeds: int, processes: int) -> list[Scores]:
    """Scores of each seed."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(one_seed, range(seeds), chunksize=1)


def best_length(found: Sequence[Scores]) -> float:
    """The EMA length with the least mean over seeds."""
    return min(WIDTHS, key=lambda width: float(np.mean([scores[f"sigma_rel {width:g}"] for scores in found])))


def mean(found: Sequence[Scores], name: str, minus: str | None = None) -> Measured:
    """Mean over seeds and its standard error; of a difference, if `minus` is given."""
    values = np.array([scores[name] - (scores[minus] if minus else 0.0) for scores in found])
    return Measured(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None)


def rows(found: Sequence[Scores]) -> list[dict[str, Any]]:
    """Rows of the table: what was scored, its mean over seeds, and differences paired by seed."""
    best = f"sigma_rel {best_length(found):g}"

    def row(name: str, real: str | None = None, emas: str | None = None, label: str = "") -> dict[str, Any]:
        return {
            "weights": label or name,
            "cross-entropy": _words(mean(found, name)),
            "minus real decay": _words(mean(found, name, real), "+") if real else "",
            "minus 2 EMAs": _words(mean(found, name, emas), "+") if emas else "",
        }

    table = [row("constant rate, last weights"), row(best, label=f"constant rate, best {best}")]
    for shape in COMPARED:
        real, emas = f"{shape}: real decay", f"{shape}: lr_decay from two EMAs"
        table += [row(real), row(f"{real}, EMA 0.05", real), row(emas, real)]
        table.append(row(f"{shape}: lr_decay from raw checkpoints", real, emas))
    return table


def tail_errors(found: Sequence[Scores]) -> list[dict[str, Any]]:
    """Rows: relative error of the tail, by calculation and measured on the weights."""
    times = {
        "two EMAs": (EMA_EVERY, [Profile.power(s) for s in STORED]),
        "raw checkpoints": (RAW_EVERY, [Profile(kind="raw")]),
    }
    table = []
    for name, (every, profiles) in times.items():
        stored = [_snapshot(step, p) for step in range(every, STEPS + 1, every) for p in profiles]
        for shape in COMPARED:
            measured = mean(found, f"error of {shape} from {name}")
            table.append(
                {
                    "stored": name,
                    "shape": shape,
                    "error by calculation": f"{expected_tail_error(stored, shape):.2e}",
                    "error measured": f"{measured.value:.2e}",
                }
            )
    return table


def _words(measured: Measured, sign: str = "") -> str:
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.4f}"
    return f"{measured.value:{sign}.4f}{error}"


def draw(found: Sequence[Scores]) -> bytes:
    """PNG: every set of weights, and its difference to the best."""
    best = f"sigma_rel {best_length(found):g}"
    names = {
        "constant rate, last weights": "constant rate, last weights",
        f"constant rate, {best.replace('sigma_rel', 'σ_rel')}": best,
    }
    for shape in COMPARED:
        for what in ("real decay", "real decay, EMA 0.05", "lr_decay from two EMAs", "lr_decay from raw checkpoints"):
            names[f"{shape}: {what}"] = f"{shape}: {what}"
    top = min(names.values(), key=lambda name: mean(found, name).value)
    compared = [
        ComparedRow(label, mean(found, name), None if name == top else mean(found, name, top))
        for label, name in names.items()
    ]
    return run_comparison(compared, FigureName("Cross-entropy on unseen text, nats per character"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="seeds of training (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="seeds that train at once (default %(default)s)")
    parser.add_argument("--report", type=Path, help="write figures and a picture into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.seeds, options.processes)
    table, errors = rows(found), tail_errors(found)
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)
        document = {**machine(), "rows": table, "tail_errors": errors, "seeds": found}
        (options.report / "language_model_decay.json").write_text(json.dumps(document, indent=1) + "\n")
        (options.report / "language_model_decay.png").write_bytes(draw(found))
    if options.json:
        print(json.dumps({**machine(), "rows": table, "tail_errors": errors}))
        return
    show(machine(), table, as_json=False)
    show({}, errors, as_json=False)


if __name__ == "__main__":
    main()
