"""Compute the figures of an evaluation from its parts."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phema.services.phema_worker.evaluation.actor_context import ActorContext
from phema.services.phema_worker.evaluation.archive import write_archive
from phema.services.phema_worker.evaluation.part_file import PartContent, decode_part
from phema.services.phema_worker.evaluation.tasks import Scored, ScoreTask, StoredPart
from phema.services.phema_worker.task_outcomes import Written
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.drawing.drawing import NotFinite, batch_size
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.figures import FigureValue
from phema.shared.metrics.network_inputs import NetworkInputs
from phema.shared.metrics.provenance import provenance
from phema.shared.metrics.registry import METRICS
from phema.shared.metrics.scoring import score, score_network
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.verification import check_recorded


def score_parts(context: ActorContext, task: ScoreTask, watch: TaskProgress) -> Scored:
    """Read the parts, compute all figures, and store the grid and, if the recipe asks for it, all pictures.

    Raises DatasetChanged, NotFinite, ScoringError, DatasetError, SnapshotError, HubUnreachable, and Cancelled.
    """
    start = time.perf_counter()
    recipe = EvaluationRecipe.model_validate(task.network.recipe)
    config = RunConfig.model_validate(task.network.config)
    dataset = context.dataset(config, task.fingerprint)
    held_out = len(dataset.held_out)
    watch.expect(len(task.parts) + sum(METRICS[name].network_work(held_out) for name in recipe.metrics))
    figures = _of_network(context, task, recipe, config, watch)
    watch.message = "computing figures"
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in task.extractors}
    for part in task.parts:
        found = _read(context.store, part).features
        for name, of_extractor in rows.items():
            of_extractor.append(found[name])
        watch.advance(1)
    extractors = context.extractors(config, recipe)
    references = {name: context.reference(config, extractor, watch) for name, extractor in extractors.items()}
    features = {name: np.concatenate(of_extractor) for name, of_extractor in rows.items()}
    figures |= score(recipe.metrics, features, references)
    _check_finite(figures)
    grid = _read(context.store, task.grid)
    png = grid_png(_as_floats(grid.pictures), recipe.grid)
    written = [_written(context.store, task.pictures_key, png)]
    if task.archive_key is not None:
        watch.message = "packing the pictures"
        # One part in memory at a time.
        parts = (_read(context.store, part) for part in task.parts)
        info = write_archive(context.store, task.archive_key, parts, first_seed=recipe.seed)
        written.append(Written(info.key, info.size, str(info.sha256)))
    details = provenance(
        recipe.metrics,
        num_samples=recipe.num_samples,
        identities={name: ExtractorIdentity.of(identity) for name, identity in task.extractors.items()},
        references=references,
        held_out=held_out,
    )
    return Scored(tuple(written), time.perf_counter() - start, figures, details | _speed(task, str(context.device)))


def _of_network(
    context: ActorContext, task: ScoreTask, recipe: EvaluationRecipe, config: RunConfig, watch: TaskProgress
) -> dict[str, FigureValue]:
    """Figures that need no pictures."""
    names = [name for name in recipe.metrics if METRICS[name].from_network is not None]
    if not names:
        return {}
    watch.message = "denoising held-out pictures"
    denoiser = context.networks.get(task.network.weights)
    inputs = NetworkInputs(
        denoiser=denoiser,
        held_out=context.dataset(config).held_out,
        p_mean=config.p_mean,
        p_std=config.p_std,
        batch_size=batch_size(denoiser),
        advance=watch.advance,
    )
    return score_network(names, inputs)


def _check_finite(figures: dict[str, FigureValue]) -> None:
    if wrong := next((name for name, figure in figures.items() if not math.isfinite(figure.value)), None):
        raise NotFinite(f"figure {wrong} is not finite; these weights cannot be evaluated by this recipe")


def _read(store: ObjectStore, part: StoredPart) -> PartContent:
    data = store.get(part.key)
    check_recorded(store, part.key, hashlib.sha256(data).hexdigest(), part.sha256)
    return decode_part(data, part.key)


def _as_floats(pictures: NDArray[np.uint8] | None) -> NDArray[np.float32]:
    assert pictures is not None, "the part of a grid keeps its pictures"
    return pictures.astype(np.float32) / 127.5 - 1


def _speed(task: ScoreTask, device: str) -> dict[str, Any]:
    """How fast the pictures were drawn, over all actors: per second of one actor."""
    parts: Sequence[StoredPart] = (*task.parts, task.grid)
    seconds = sum(part.seconds for part in parts)
    busy = sum(part.busy_seconds for part in parts)
    return {
        "device": device,
        "num_parts": len(parts),
        "pictures_per_second": sum(part.count for part in parts) / seconds if seconds else None,
        "waiting_share": 1 - busy / seconds if seconds else None,
    }


def _written(store: ObjectStore, key: str, data: bytes) -> Written:
    info = store.put(key, data)
    return Written(info.key, info.size, info.sha256 or hashlib.sha256(data).hexdigest())
