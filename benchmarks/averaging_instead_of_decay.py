"""Figures of `benchmarks.constant_learning_rate`: scores, errors of differences, pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phema.shared.datasets import open_dataset
from phema.shared.metrics.feature_extraction import load_extractor
from phema.shared.metrics.figures import FigureValue, difference
from phema.shared.metrics.measures.frechet import frechet
from phema.shared.metrics.reference_statistics import measure
from phema.shared.pictures.measured import Curve, CurvePoint, FigureName, Measured
from phema.shared.pictures.measured_curves import in_words, measured_curves
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.pictures.run_comparison import ComparedRow, run_comparison
from phema.shared.pictures.side_by_side import Captioned, side_by_side
from phema.shared.recipes.presets import resolve

LAST = 0.0
"""Stands for the plain last weights in place of an EMA length."""
TITLE = FigureName("Fréchet distance in the digits classifier's features")
Scores = Mapping[str, Mapping[float, Sequence[FigureValue]]]
"""By arm and EMA length: one figure per seed of training, in order of the seed."""

Pictures = Mapping[tuple[str, int], Mapping[float, np.ndarray[Any, Any]]]
"""By (arm, seed of training) and EMA length: pictures float32 [blocks, n, C, H, W]."""
SIDE = 8
"""Rows and columns of the grids."""


def score(pictures: Pictures) -> Scores:
    """Fréchet distances of pictures [blocks, n, C, H, W] by (arm, seed of training) and EMA length."""
    dataset = open_dataset(resolve("digits-tiny").dataset)
    extractor = load_extractor("digits", dataset=dataset)
    reference = measure(dataset, extractor)
    scores: dict[str, dict[float, list[FigureValue]]] = {}
    for (arm, _seed), by_width in sorted(pictures.items(), key=lambda item: item[0]):
        for width, drawn in sorted(by_width.items()):
            features = extractor(torch.from_numpy(drawn.reshape(-1, *drawn.shape[2:]))).numpy()
            scores.setdefault(arm, {}).setdefault(width, []).append(frechet(features, reference))
    return scores


@dataclass(frozen=True)
class Mean:
    """The mean over trainings. Its error is that over trainings, which contains the error of sampling."""

    value: float
    over_trainings: float
    """Standard error from the spread between trainings; NaN for one training."""
    sampling: float
    """Standard error from sampling alone."""

    @classmethod
    def of(cls, values: Sequence[float], errors: Sequence[float]) -> Mean:
        count = len(values)
        spread = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(np.mean(values)), spread, math.sqrt(sum(e * e for e in errors)) / count)

    @property
    def measured(self) -> Measured:
        return Measured(self.value, self.sampling if math.isnan(self.over_trainings) else self.over_trainings)


def mean(values: Sequence[FigureValue]) -> Mean:
    return Mean.of([v.value for v in values], [v.standard_error or 0.0 for v in values])


def mean_difference(a: Sequence[FigureValue], b: Sequence[FigureValue]) -> Mean:
    """Of a - b, training by training (equal seeds of training) and block by block (equal seeds of sampling)."""
    pairs = [difference(x, y) for x, y in zip(a, b, strict=True)]
    return Mean.of([gap for gap, _ in pairs], [error or 0.0 for _, error in pairs])


def best_length(by_width: Mapping[float, Sequence[FigureValue]]) -> float:
    """The EMA length with the smallest mean over trainings."""
    return min((width for width in by_width if width != LAST), key=lambda width: mean(by_width[width]).value)


def document(scores: Scores, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, as JSON."""
    arms = {}
    for arm, by_width in scores.items():
        best = best_length(by_width)
        arms[arm] = [
            {
                "sigma_rel": None if width == LAST else width,
                "mean": mean(values).value,
                "standard_error_over_trainings": mean(values).over_trainings,
                "standard_error_of_sampling": mean(values).sampling,
                "difference_to_best_length": mean_difference(values, by_width[best]).value,
                "standard_error_of_difference": mean_difference(values, by_width[best]).over_trainings,
                "trainings": [value.value for value in values],
            }
            for width, values in by_width.items()
        ]
    return {"conditions": dict(conditions), "arms": arms, "differences": list(_between_arms(scores))}


def _between_arms(scores: Scores) -> list[dict[str, Any]]:
    """Best length against best length, and at equal lengths, of every arm against the first best one."""
    best_arm = min(scores, key=lambda arm: mean(scores[arm][best_length(scores[arm])]).value)
    ours = scores[best_arm]
    found = []
    for arm, by_width in scores.items():
        if arm == best_arm:
            continue
        pairs = [("best lengths", best_length(by_width), best_length(ours))]
        pairs += [("equal lengths", width, width) for width in by_width]
        for what, theirs, mine in pairs:
            gap = mean_difference(by_width[theirs], ours[mine])
            found.append(
                {
                    "what": what if theirs != LAST else "last weights",
                    "arm": arm,
                    "sigma_rel": None if theirs == LAST else theirs,
                    "than": best_arm,
                    "than_sigma_rel": None if mine == LAST else mine,
                    "difference": gap.value,
                    "standard_error_over_trainings": gap.over_trainings,
                    "standard_error_of_sampling": gap.sampling,
                }
            )
    return found


def draw_curves(scores: Scores) -> bytes:
    """PNG: every arm over the EMA length, and its last weights."""
    curves = []
    for arm, by_width in scores.items():
        best = best_length(by_width)
        points = [
            CurvePoint(width, mean(values).measured, width == best or _tied(values, by_width[best]))
            for width, values in by_width.items()
            if width != LAST
        ]
        last = mean(by_width[LAST]).measured if LAST in by_width else None
        curves.append(Curve(arm, points, last, f"{arm}: last weights"))
    return measured_curves(curves, TITLE, logarithmic=True)


def _tied(a: Sequence[FigureValue], b: Sequence[FigureValue]) -> bool:
    gap = mean_difference(a, b).measured
    return abs(gap.value) < 2 * (gap.standard_error or 0.0)


def draw_comparison(scores: Scores) -> bytes:
    """PNG: best length and last weights of every arm, with differences to the best of all."""
    found = [(arm, best_length(by_width), by_width) for arm, by_width in scores.items()]
    found.sort(key=lambda item: mean(item[2][item[1]]).value)
    first = found[0][2][found[0][1]]
    rows = [
        ComparedRow(
            f"{arm}, {100 * width:g} %",
            mean(by_width[width]).measured,
            None if by_width[width] is first else mean_difference(by_width[width], first).measured,
        )
        for arm, width, by_width in found
    ]
    rows += [
        ComparedRow(
            f"{arm}, last weights", mean(by_width[LAST]).measured, mean_difference(by_width[LAST], first).measured
        )
        for arm, _, by_width in found
        if LAST in by_width
    ]
    return run_comparison(rows, TITLE)


def table(scores: Scores) -> list[str]:
    """Lines of a Markdown table: one row per EMA length, one column per arm."""
    arms = list(scores)
    widths = sorted({width for by_width in scores.values() for width in by_width})
    lines = [f"| σ_rel | {' | '.join(arms)} |", f"|---|{'---|' * len(arms)}"]
    for width in widths:
        cells = []
        for arm in arms:
            text = in_words(mean(scores[arm][width]).measured) if width in scores[arm] else ""
            cells.append(f"**{text}**" if width == best_length(scores[arm]) else text)
        lines.append(f"| {'last weights' if width == LAST else f'{100 * width:g} %'} | {' | '.join(cells)} |")
    return lines


def draw_grids(pictures: Pictures, scores: Scores) -> bytes:
    """PNG: the first pictures of the last weights and of the best length of every arm, from the same seeds."""
    grids = []
    for arm in scores:
        seed = min(seed for name, seed in pictures if name == arm)
        for width in (LAST, best_length(scores[arm])):
            drawn = pictures[arm, seed][width].reshape(-1, 1, 8, 8)[: SIDE * SIDE].astype(np.float32)
            name = "last weights" if width == LAST else f"{100 * width:g} %"
            grids.append(Captioned(f"{arm}, {name}", grid_png(drawn, SIDE)))
    return side_by_side(grids, columns=4)


def write(scores: Scores, pictures: Pictures, folder: Path, conditions: Mapping[str, Any]) -> None:
    """Write `averaging_instead_of_decay.json`, its curves, comparison and grids into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "averaging_instead_of_decay"
    (folder / f"{name}.json").write_text(json.dumps(document(scores, conditions), indent=1) + "\n")
    (folder / f"{name}.png").write_bytes(draw_curves(scores))
    (folder / f"{name}_compared.png").write_bytes(draw_comparison(scores))
    (folder / f"{name}_grids.png").write_bytes(draw_grids(pictures, scores))
