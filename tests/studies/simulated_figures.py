"""A world whose figures are known: the mean over pictures of contributions with the errors that real pictures have.

The contribution of a picture depends on its seed and, smoothly, on the point: a part that all points share, a part
that neighbours share, and a part of each point's own. As with Fréchet distances, few pictures have a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from phema.shared.metrics.figures import FigureValue, blocks, jackknifed
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_space import Axis, Point, SearchSpace
from phema.shared.studies.search_steps import Evaluated, SearchProblem, next_step


@dataclass(frozen=True)
class SimulatedFigures:
    curve: Callable[..., float]
    """The figure of infinitely many pictures at a point."""
    world: int = 0
    """Which pictures the seeds stand for."""
    common: float = 2.0
    """Standard deviation of the part of a picture's contribution that all points share: 0.1 for 400 pictures."""
    smooth: float = 0.4
    own: float = 0.3
    bias: float = 20.0
    """Times the inverse of the number of pictures."""

    def __call__(self, point: Point, num_samples: int, seed: int) -> FigureValue:
        shared = np.random.RandomState([self.world, seed]).standard_normal((num_samples, 4))
        mine = np.random.RandomState([self.world, seed, *(round(1e5 * math.log(x)) % 2**31 for x in point)])
        position = sum(math.log(x) for x in point) + 3
        slope = np.array([position, 0.5 * math.sin(2 * position), 0.5 * math.cos(2 * position)])
        pictures = self.common * shared[:, 0] + self.smooth * shared[:, 1:] @ slope
        pictures = pictures + self.own * mine.standard_normal(num_samples) + self.curve(*point)
        total = pictures.sum()
        without = [
            (total - pictures[block].sum() + self.bias) / (num_samples - (block.stop - block.start))
            for block in blocks(num_samples)
        ]
        return jackknifed(float((total + self.bias) / num_samples), without)


def digits(sigma_rel: float) -> float:
    """Fréchet distances of the digits, with a learning rate that decays."""
    known = [0.581, 0.534, 0.533, 0.543, 0.556, 0.575, 0.623]
    return float(np.interp(math.log(sigma_rel), np.log([0.01, 0.03, 0.05, 0.10, 0.13, 0.16, 0.20]), known))


def steep(sigma_rel: float) -> float:
    return 2 + 3 * math.log(sigma_rel / 0.06) ** 2


def falling(sigma_rel: float) -> float:
    return 1 - 0.2 * math.log(sigma_rel / 0.01)


def problem_of(*axes: Axis, budget: int = 4000, seed: int = 1000, better: str = "lower") -> SearchProblem:
    return SearchProblem(space=SearchSpace(axes), better=better, budget=budget, seed=seed)


def run_search(
    problem: SearchProblem, figures: Callable[[Point, int, int], FigureValue | None]
) -> tuple[Answer, list[Evaluated]]:
    """The answer and everything that was evaluated."""
    evaluated: list[Evaluated] = []
    step = 0
    while not isinstance(found := next_step(problem, evaluated), Answer):
        evaluated += [
            Evaluated(step, point, found.num_samples, found.seed, figures(point, found.num_samples, found.seed))
            for point in found.points
        ]
        step += 1
    return found, evaluated
