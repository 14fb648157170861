"""Everything that `phema demo` measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phema.client.response_models import Evaluation, Metrics, Plan, Reconstruction, Run
from phema.errors import PhemaError


@dataclass(frozen=True)
class Trial:
    """One EMA length: the reconstructed weights, their evaluation and the grid of pictures."""

    weights: Reconstruction
    evaluation: Evaluation
    pictures: Path

    @property
    def sigma_rel(self) -> float:
        """Raises PhemaError for a reconstruction that is no power-function EMA; the demo makes none."""
        if self.weights.sigma_rel is None:
            raise PhemaError(f"reconstruction {self.weights.id} is no power-function EMA")
        return self.weights.sigma_rel

    @property
    def frechet(self) -> float:
        return self._figure("frechet")

    @property
    def held_out_loss(self) -> float:
        return self._figure("held_out_loss")

    def _figure(self, name: str) -> float:
        value = (self.evaluation.figures or {}).get(name)
        if value is None:
            raise PhemaError(f"evaluation {self.evaluation.id} has no finite {name}; the training did not converge")
        return value


@dataclass(frozen=True)
class DemoResults:
    """One training run, its reconstructions with their figures, and how long each part took."""

    run: Run
    history: list[Metrics]
    plan: Plan
    trials: list[Trial]
    weights_file: Path
    seconds: dict[str, float]
    """Wall-clock time of each part by name."""

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.frechet)

    @property
    def tracked(self) -> list[float]:
        return sorted({s.sigma_rel for s in self.plan.snapshots if s.sigma_rel is not None})
