"""Compare learning-rate decays of real training with decays chosen afterwards, on a classifier of the digits.

Many seeds of the network of examples/classifier.py train at once at constant learning rate. From 80 % on, branches of
the same runs, on the same batches, decay the learning rate to 0. The constant runs are then averaged with the profile
`lr_decay`: from 32 times of two EMAs, and from 64 raw checkpoints, which are as many bytes. Scores are cross-entropies
on test pictures, with standard errors over seeds; differences are paired by seed. Takes about a minute.

    python -m benchmarks.lr_decay [--seeds 64] [--json]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.report import machine, show
from examples.classifier import digits
from phema.shared.edm2.averaging.decay_shapes import SHAPES
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

BATCH, STEPS, RATE, NOISE = 8, 2560, 0.5, 0.2
START = STEPS * 4 // 5
STORED = (0.05, 0.10)
EMA_EVERY, RAW_EVERY = STEPS // 32, STEPS // 64
COMPARED = ("linear", "cosine", "1-sqrt")
WIDTHS = (0.02, 0.03, 0.05, 0.075, 0.10, 0.13, 0.16, 0.20, 0.25)
State = dict[str, Tensor]


class Classifiers(nn.Module):
    """Two-layer classifiers of all seeds, whose weights have the seed as their first dimension."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        bound = 64**-0.5
        self.first = nn.Parameter(torch.empty(seeds, 64, 64).uniform_(-bound, bound))
        self.first_bias = nn.Parameter(torch.empty(seeds, 1, 64).uniform_(-bound, bound))
        self.last = nn.Parameter(torch.empty(seeds, 64, 10).uniform_(-bound, bound))
        self.last_bias = nn.Parameter(torch.empty(seeds, 1, 10).uniform_(-bound, bound))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [seeds, N, 10] of pictures [seeds or 1, N, 64]."""
        hidden = (pictures @ self.first + self.first_bias).relu()
        return hidden @ self.last + self.last_bias


def train(model: Classifiers, steps: Iterable[int], rate: Callable[[int], float], after: Callable[[int], None]) -> None:
    """SGD. Each step has batches of its own, the same in every branch."""
    pictures, classes, *_ = digits()
    seeds = len(model.first)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(len(pictures), [seeds, BATCH], generator=generator)
        noisy = pictures[batch] + NOISE * torch.randn(seeds, BATCH, 64, generator=generator)
        loss = cross_entropy(model(noisy).flatten(0, 1), classes[batch].flatten()) * seeds
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rate(step) * gradient
        after(step)


@torch.no_grad()
def scores(state: State) -> Tensor:
    """Cross-entropy on the test pictures [seeds]."""
    *_, pictures, classes = digits()
    model = Classifiers(len(state["first"]))
    model.load_state_dict(state)
    logits = model(pictures[None])
    losses = cross_entropy(logits.flatten(0, 1), classes.repeat(len(logits)), reduction="none")
    return losses.unflatten(0, (len(logits), -1)).mean(1)


def copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


class History:
    """What a run stores, and reconstructions from it."""

    def __init__(self, model: Classifiers) -> None:
        self.model, self.ema = model, PowerFunctionEMA(model, STORED)
        self.averages: dict[StoredSnapshot, State] = {}
        self.checkpoints: dict[StoredSnapshot, State] = {}
        self.at_start: State = {}
        self.ema_at_start: dict[str, Any] = {}

    def __call__(self, step: int) -> None:
        self.ema.update(step * BATCH)
        if step % EMA_EVERY == 0:
            for index, sigma_rel in enumerate(STORED):
                self.averages[_snapshot(step, Profile.power(sigma_rel))] = copied(self.ema.tensors(index))
        if step % RAW_EVERY == 0:
            self.checkpoints[_snapshot(step, Profile(kind="raw"))] = copied(self.model.state_dict())
        if step == START:
            self.at_start = copied(self.model.state_dict())
            self.ema_at_start = copy.deepcopy(self.ema.state_dict())


def _snapshot(step: int, profile: Profile) -> StoredSnapshot:
    return StoredSnapshot(f"{step}-{profile.label}", step * BATCH, profile, "", 1, "")


def reconstructed(stored: dict[StoredSnapshot, State], profile: Profile) -> State:
    planned = plan(list(stored), [profile])
    states = [stored[snapshot] for snapshot in planned.snapshots]
    coefficients = planned.outputs[0].coefficients
    return {
        name: sum(c * state[name].double() for c, state in zip(coefficients, states, strict=True)).float()  # type: ignore[union-attr]
        for name in states[0]
    }


def decayed(history: History, seeds: int, shape: str) -> tuple[Tensor, Tensor]:
    """Scores of a real decay from START on: of its last weights, and of their EMA of sigma_rel 0.05."""
    model = Classifiers(seeds)
    model.load_state_dict(history.at_start)
    ema = PowerFunctionEMA(model, STORED)
    ema.load_state_dict(history.ema_at_start)
    multiplier = SHAPES[shape].multiplier

    def rate(step: int) -> float:
        # Averaging, too, scales the update of a step by the multiplier at its beginning.
        return RATE * float(multiplier(np.array((step - 1 - START) / (STEPS - START))))

    train(model, range(START + 1, STEPS + 1), rate, lambda step: ema.update(step * BATCH))
    return scores(model.state_dict()), scores(ema.tensors(0))


def measure(seeds: int) -> list[dict[str, Any]]:
    """Rows: what was scored, its mean cross-entropy over seeds, and its difference from the real decay."""
    model = Classifiers(seeds)
    history = History(model)
    train(model, range(1, STEPS + 1), lambda step: RATE, history)
    rows = [_row("constant rate, last weights", scores(model.state_dict()))]
    lengths = {s: scores(reconstructed(history.averages, Profile.power(s))) for s in WIDTHS}
    best = min(lengths, key=lambda sigma_rel: float(lengths[sigma_rel].mean()))
    rows.append(_row(f"constant rate, EMA of the best sigma_rel, {best:g}", lengths[best]))
    length = (STEPS - START) * BATCH
    for shape in COMPARED:
        real, averaged = decayed(history, seeds, shape)
        profile = Profile.model_validate({"kind": "lr_decay", "shape": shape, "length_images": length})
        rows.append(_row(f"{shape}: real decay", real))
        chosen = scores(reconstructed(history.averages, profile))
        rows.append(_row(f"{shape}: lr_decay from 2 EMAs", chosen, real))
        merged = scores(reconstructed(history.checkpoints, profile))
        rows.append(_row(f"{shape}: lr_decay from raw checkpoints", merged, real, chosen))
        rows.append(_row(f"{shape}: real decay, EMA 0.05", averaged, real))
    return rows


def _row(what: str, found: Tensor, real: Tensor | None = None, chosen: Tensor | None = None) -> dict[str, Any]:
    return {
        "weights": what,
        "cross-entropy": "{:.4f} ± {:.4f}".format(*_mean(found)),
        "minus real decay": _difference(found, real),
        "minus 2 EMAs": _difference(found, chosen),
    }


def _difference(found: Tensor, other: Tensor | None) -> str:
    return "" if other is None else "{:+.4f} ± {:.4f}".format(*_mean(found - other))


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64, help="networks (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)  # networks this small only lose by sharing their work
    show(machine(), measure(options.seeds), as_json=options.json)


if __name__ == "__main__":
    main()
