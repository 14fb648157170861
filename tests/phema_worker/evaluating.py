"""Evaluates a network in this process by the tasks of a worker, part by part, without Ray and catalog."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from phema.services.phema_worker.evaluation.actor_context import ActorContext
from phema.services.phema_worker.evaluation.draw import draw_part
from phema.services.phema_worker.evaluation.parts import Part, cut, grid_part, part_size
from phema.services.phema_worker.evaluation.prepare import prepare
from phema.services.phema_worker.evaluation.score import score_parts
from phema.services.phema_worker.evaluation.tasks import (
    DrawTask,
    Network,
    PrepareTask,
    ScoreTask,
    StoredPart,
    Weights,
)
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.metrics.figures import FigureValue
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.stores.local.store import LocalStore

MAIN, GUIDE = Weights("rec-main", "main", "1" * 64), Weights("rec-guide", "guide", "2" * 64)


@dataclass
class Given:
    """Networks of the test in place of those in the store."""

    networks: dict[str, Denoiser]

    def get(self, weights: Weights) -> Denoiser:
        return self.networks[weights.key]


@dataclass
class Evaluated:
    """What an evaluation gave."""

    values: dict[str, FigureValue]
    png: bytes
    archive: bytes | None
    provenance: dict[str, Any]
    features: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        return {name: value.value for name, value in self.values.items()}


def evaluate(
    denoiser: Denoiser,
    guide: Denoiser | None,
    config: RunConfig,
    recipe: EvaluationRecipe,
    *,
    parts: Sequence[Part] | None = None,
    watch: Callable[[], TaskProgress] = TaskProgress,
) -> Evaluated:
    """`parts` defaults to those of a worker; `watch` makes the progress of each task."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        context = ActorContext(store, torch.device("cpu"), None, None)
        networks = {"main": denoiser} | ({} if guide is None else {"guide": guide})
        context.networks = cast(Any, Given(networks))
        network = Network(
            MAIN, None if guide is None else GUIDE, config.model_dump(mode="json"), recipe.model_dump(mode="json")
        )
        prepared = prepare(context, PrepareTask("t", "eval", "run", network), watch())
        extractors, fingerprint = prepared.extractors, prepared.fingerprint
        if parts is None:
            drawn = recipe.num_samples if extractors or recipe.keep_pictures else 0
            parts = cut(drawn, [], part_size(config.network.img_resolution))
        stored = []
        for number, part in enumerate([grid_part(recipe), *parts]):
            task = DrawTask(
                token="t",
                part_id=f"part-{number}",
                network=network,
                extractors=extractors,
                fingerprint=fingerprint,
                first=part.first,
                count=part.count,
                grid=part.grid,
                key=f"parts/{number}",
            )
            done = draw_part(context, task, watch())
            (written,) = done.written
            stored.append(StoredPart(written.key, written.sha256, part.count, done.seconds, done.busy_seconds))
        archive = "all.zip" if recipe.keep_pictures else None
        scored = score_parts(
            context,
            ScoreTask("t", "eval", network, extractors, fingerprint, tuple(stored[1:]), stored[0], "grid.png", archive),
            watch(),
        )
        packed = None if archive is None else store.get(archive)
        return Evaluated(scored.figures, store.get("grid.png"), packed, scored.provenance)
