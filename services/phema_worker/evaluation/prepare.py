"""Prepare an evaluation: load its extractors, and compute reference statistics that are missing."""

from __future__ import annotations

import time

from phema.services.phema_worker.evaluation.actor_context import ActorContext, identities_of
from phema.services.phema_worker.evaluation.tasks import Prepared, PrepareTask
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.metrics.scoring import check_references
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig


def prepare(context: ActorContext, task: PrepareTask, watch: TaskProgress) -> Prepared:
    """Everything that may fail without drawing a picture fails here.

    Raises ScoringError, DatasetError, SnapshotError, HubUnreachable (of the VAE or of weights), and Cancelled.
    """
    start = time.perf_counter()
    watch.message = "loading feature extractors"
    recipe = EvaluationRecipe.model_validate(task.network.recipe)
    config = RunConfig.model_validate(task.network.config)
    dataset = context.current_dataset(config)
    extractors = context.extractors(config, recipe)
    references = {name: context.reference(config, extractor, watch) for name, extractor in extractors.items()}
    check_references(recipe.metrics, references)
    return Prepared((), time.perf_counter() - start, identities_of(extractors), dataset.info.fingerprint)
