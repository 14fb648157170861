"""What the demo measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phema.client.response_models import Evaluation, Metrics, Plan, Reconstruction, Run
from phema.errors import PhemaError


@dataclass(frozen=True)
class Trial:
    """One EMA length: its weights, figures and pictures."""

    weights: Reconstruction
    evaluation: Evaluation
    pictures: Path

    @property
    def sigma_rel(self) -> float:
        """The demo asks for power functions alone, which have one."""
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
class Findings:
    """All that the demo measured."""

    run: Run
    history: list[Metrics]
    plan: Plan
    trials: list[Trial]
    weights_file: Path
    seconds: dict[str, float]
    """Wall-clock time of each part."""

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.frechet)

    @property
    def tracked(self) -> list[float]:
        return sorted({s.sigma_rel for s in self.plan.snapshots if s.sigma_rel is not None})
