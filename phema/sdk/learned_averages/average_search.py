"""`phema.AverageSearch`: searches for a learned average, by asking for scores of averages. Torch-free.

After "Linear Combination of Saved Checkpoints" (arXiv 2404.02241), but among mixtures of a few averages instead of all
checkpoints. The optimiser is CMA-ES (package `cmaes`). A file of scores makes the search survive its process: the same
settings and scores lead to the same questions, so that the search is replayed instead of stored.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from phema.errors import InvalidArgument
from phema.extras import require
from phema.sdk.learned_averages.mixture_space import MixtureSpace
from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT
from phema.shared.snapshots.profile import MIXED_KINDS, Profile

COARSE = 12
"""EMA lengths, evenly spaced in the logarithm, with which both searches begin."""
FINEST_STEP = 1.01
"""Ratio of neighbouring EMA lengths below which the search for the best one does not go."""
MEMBERS = 6
"""Power functions of the family."""
FEWEST = 2 * COARSE
FIRST_STEP = 0.5
"""Standard deviation of the first mixtures, in units of the family's reach."""


class SearchSettings(BaseModel):
    """What decides the questions of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int
    """Time of the averages."""
    sigma_rel_min: float
    sigma_rel_max: float
    profiles: tuple[Profile, ...] = ()
    """Members of the family beside the best EMA length. Empty: power functions of the range."""
    evaluations: int
    """Budget of each of the two searches: for the best EMA length and for the best mixture. They share the first 12."""
    seed: int = 0


class AverageSearch:
    """Finds the best EMA length and the best mixture with equal budgets, from scores of averages; lower is better.

    `ask()` names averages, `tell()` takes their scores, until `ask()` returns none:

        while profiles := search.ask():
            search.tell([score(profile) for profile in profiles])

    First come the EMA lengths: 12 of the whole range, then finer ones around the best. Then come mixtures around the
    best length. `state` is a file in which scores are kept after each `tell`; a search with the same settings and the
    same file continues.

    Raises InvalidArgument for impossible settings or a state of another search, and MissingPackages without the extra
    `learn`.
    """

    def __init__(
        self,
        num_images: int,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        profiles: Sequence[Profile] = (),
        evaluations: int = 60,
        seed: int = 0,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        require("learn")
        if not 0 < sigma_rel_min < sigma_rel_max < SIGMA_REL_LIMIT:
            raise InvalidArgument(
                f"sigma_rel_min {sigma_rel_min:g} and sigma_rel_max {sigma_rel_max:g} must rise, and lie between 0 and "
                f"{SIGMA_REL_LIMIT:.4f}"
            )
        if evaluations < FEWEST:
            raise InvalidArgument(f"evaluations {evaluations} must be at least {FEWEST}")
        unfit = next((p for p in profiles if p.kind not in MIXED_KINDS), None)
        if unfit is not None:
            raise InvalidArgument(f"profiles holds {unfit.label}; allowed: {', '.join(MIXED_KINDS)}")
        if len(profiles) == 1:
            raise InvalidArgument("profiles holds one average; give at least two, or none for the usual family")
        self.settings = SearchSettings(
            num_images=num_images,
            sigma_rel_min=sigma_rel_min,
            sigma_rel_max=sigma_rel_max,
            profiles=tuple(profiles),
            evaluations=evaluations,
            seed=seed,
        )
        self.scores: list[float] = []
        """Every score so far, in the order of the questions; infinity for one that is not finite."""
        self._asked: list[Profile] = []
        """All averages that were named, in order."""
        self._points: list[FloatArray] = []
        """Of the mixtures among them."""
        self._space: MixtureSpace | None = None
        self._optimiser: Any = None
        self._coarse = [float(s) for s in np.geomspace(sigma_rel_min, sigma_rel_max, COARSE)]
        self._lengths = COARSE
        self._state = None if state is None else Path(state)
        self._extend()
        self._replay()

    @property
    def family(self) -> tuple[Profile, ...]:
        """The averages that are mixed, the best EMA length among them. Empty until the best length is known."""
        return () if self._space is None else self._space.family

    @property
    def total(self) -> int:
        """Number of all questions, once `family` is known."""
        return self._lengths + self.settings.evaluations - COARSE

    def ask(self) -> list[Profile]:
        """The averages to score next; none at the end. The same until their scores are told."""
        return self._asked[len(self.scores) :]

    def tell(self, scores: Sequence[float]) -> None:
        """Scores of the averages that `ask` named, in order. A score that is not finite is worse than all others."""
        asked = self.ask()
        if len(scores) != len(asked):
            raise InvalidArgument(f"scores has {len(scores)} entries for {len(asked)} averages; give one for each")
        self.scores += [value if math.isfinite(value) else math.inf for value in map(float, scores)]
        if not any(map(math.isfinite, self.scores)):
            raise InvalidArgument("scores holds no finite number; the score must be defined for averages of the run")
        self._extend()
        if self._state is not None:
            self._write(self._state)

    @property
    def best_length(self) -> Profile:
        """The best EMA length so far."""
        return self._asked[int(np.argmin(self.scores[: self._lengths]))]

    @property
    def best_length_score(self) -> float:
        return min(self.scores[: self._lengths])

    @property
    def best(self) -> Profile:
        """The best average of all so far. It is an EMA length if no mixture is better."""
        return self._asked[int(np.argmin(self.scores))]

    def to_json(self) -> dict[str, Any]:
        """Settings and scores. `state` files hold the same."""
        scores = [value if math.isfinite(value) else None for value in self.scores]
        return {"version": 1, "settings": self.settings.model_dump(mode="json"), "scores": scores}

    def _extend(self) -> None:
        """Name the next averages, once all named ones have scores."""
        count = len(self.scores)
        if count < len(self._asked):
            return
        if count == 0:
            self._asked += map(Profile.power, self._coarse)
        elif count == COARSE:
            finer = self._finer_lengths()
            self._lengths += len(finer)
            self._asked += map(Profile.power, finer)
        if count and count == self._lengths:
            self._begin_mixtures()
        if self._optimiser is not None and count < self.total:
            self._ask_mixtures(count)

    def _finer_lengths(self) -> list[float]:
        """EMA lengths between the neighbours of the best coarse one, without those that are known."""
        best = int(np.argmin(self.scores[:COARSE]))
        low, high = self._coarse[max(best - 1, 0)], self._coarse[min(best + 1, COARSE - 1)]
        count = min(self.settings.evaluations - COARSE, int(math.log(high / low) / math.log(FINEST_STEP)))
        # An even number between low and high leaves out the best length itself, which lies in the middle.
        return [float(s) for s in np.geomspace(low, high, count + count % 2 + 2)[1 : count + 1]]

    def _begin_mixtures(self) -> None:
        from cmaes import CMA

        best, settings = self.best_length, self.settings
        if settings.profiles:
            family = [best, *(p for p in settings.profiles if p != best)]
        else:
            widths = np.geomspace(settings.sigma_rel_min, settings.sigma_rel_max, MEMBERS)
            assert best.sigma_rel is not None, "lengths are power functions"
            replaced = int(np.argmin(np.abs(np.log(widths / best.sigma_rel))))
            family = [best, *(Profile.power(float(w)) for i, w in enumerate(widths) if i != replaced)]
        self._space = MixtureSpace(family, 0, settings.num_images)
        origin = np.zeros(self._space.dimensions)
        self._optimiser = CMA(mean=origin, sigma=FIRST_STEP, seed=settings.seed)

    def _ask_mixtures(self, count: int) -> None:
        """Tell the optimiser about the last generation, if there is one, and name the next."""
        assert self._space is not None, "set with the optimiser"
        size = self._optimiser.population_size
        if self._points:
            worst = max(value for value in self.scores if math.isfinite(value))
            told = [min(value, 2 * abs(worst) + worst) for value in self.scores[-size:]]
            self._optimiser.tell(list(zip(self._points[-size:], told, strict=True)))
        points = [self._optimiser.ask() for _ in range(min(size, self.total - count))]
        self._points += points
        self._asked += map(self._space.mixture, points)

    def _replay(self) -> None:
        if self._state is None or not self._state.exists():
            return
        try:
            stored = json.loads(self._state.read_text())
            settings = SearchSettings.model_validate(stored["settings"])
            scores = [math.inf if value is None else float(value) for value in stored["scores"]]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidArgument(f"state {self._state} is no file of a search: {error}") from error
        if settings != self.settings:
            differing = [n for n in SearchSettings.model_fields if getattr(settings, n) != getattr(self.settings, n)]
            raise InvalidArgument(
                f"state {self._state} is of a search with another {differing[0]}; give the same one, or another file"
            )
        while scores:
            count = len(self.ask())
            if not count:
                raise InvalidArgument(f"state {self._state} holds {len(scores)} scores too many for its search")
            self.scores += scores[:count]
            scores = scores[count:]
            self._extend()

    def _write(self, path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(self.to_json()) + "\n")
        os.replace(part, path)
