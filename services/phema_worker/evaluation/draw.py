"""Draw one part of an evaluation and compute the features of its pictures."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from phema.services.phema_worker.evaluation.actor_context import ActorContext, identities_of
from phema.services.phema_worker.evaluation.part_file import PartContent, encode_part
from phema.services.phema_worker.evaluation.recipe_sampler import RecipeSampler
from phema.services.phema_worker.evaluation.tasks import Drawn, DrawTask
from phema.services.phema_worker.task_outcomes import Written
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets.label_vectors import vectors_of_seeds
from phema.shared.datasets.preparation.vae import decode
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.sampler import Labels, random_classes
from phema.shared.metrics.extractor_registry import EXTRACTORS
from phema.shared.metrics.feature_extraction import FeatureExtractor
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.stores.hashed_bytes import HashedBytes


class ExtractorChanged(Exception):
    """The extractor's weights are no longer those with which the evaluation began."""


def draw_part(context: ActorContext, task: DrawTask, watch: TaskProgress) -> Drawn:
    """Draw the pictures, compute their features, and store both under `task.key`.

    Raises ExtractorChanged, DatasetChanged, NotFinite, SamplerError, DatasetError, ScoringError, SnapshotError,
    HubUnreachable (of the VAE), and Cancelled at the next evaluation of the network.
    """
    start = time.perf_counter()
    recipe = EvaluationRecipe.model_validate(task.network.recipe)
    config = RunConfig.model_validate(task.network.config)
    watch.message = "reading weights"
    guide = task.network.guide
    sampler = RecipeSampler(
        context.networks.get(task.network.weights),
        None if guide is None else context.networks.get(guide),
        recipe,
        watch,
    )
    extractors = {} if task.grid else _extractors(context, task, config, recipe)
    watch.message = "sampling"
    seeds = range(recipe.seed + task.first, recipe.seed + task.first + task.count)
    labels, classes = _labels(task, seeds, sampler.denoiser)
    if config.dataset.labels == "vectors" and config.network.label_dim:
        rows = vectors_of_seeds(context.dataset(config, task.fingerprint), seeds)
        labels, classes = torch.from_numpy(rows), [-1] * task.count
    working = time.perf_counter()
    content = _content(sampler, task, seeds, labels, classes, extractors, config)
    busy = time.perf_counter() - working
    data = encode_part(content)
    hashed = HashedBytes(data)
    info = context.store.put(task.key, hashed)
    return Drawn((Written(info.key, info.size, hashed.sha256),), time.perf_counter() - start, task.count, busy)


def _extractors(
    context: ActorContext, task: DrawTask, config: RunConfig, recipe: EvaluationRecipe
) -> dict[str, FeatureExtractor]:
    """The extractors with which the evaluation began. Raises ExtractorChanged, and DatasetChanged."""
    context.dataset(config, task.fingerprint)
    extractors = context.extractors(config, recipe)
    if identities_of(extractors) != task.extractors:  # this actor may have loaded them before they changed
        context.forget_extractors()
        extractors = context.extractors(config, recipe)
    if (found := identities_of(extractors)) != task.extractors:
        changed = ", ".join(name for name in found if found[name] != task.extractors.get(name))
        raise ExtractorChanged(f"the weights of extractor {changed} have changed since this evaluation began")
    return extractors


def _content(
    sampler: RecipeSampler,
    task: DrawTask,
    seeds: range,
    labels: Labels,
    classes: list[int],
    extractors: dict[str, FeatureExtractor],
    config: RunConfig,
) -> PartContent:
    features: dict[str, list[Tensor]] = {name: [] for name in extractors}
    keep = task.grid or sampler.recipe.keep_pictures
    kept: list[Tensor] = []
    of_pictures = keep or any(not EXTRACTORS[name].sees_latents for name in extractors)
    for drawn in sampler.draw(seeds, labels):
        # Only a network of latents has a VAE.
        vae = config.dataset.vae if of_pictures else None
        pictures = decode(drawn, vae, sampler.device) if vae is not None else drawn
        for name, extractor in extractors.items():
            features[name].append(extractor(drawn if EXTRACTORS[name].sees_latents else pictures))
        if keep:
            kept.append(((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return PartContent(
        {name: torch.cat(rows).numpy() for name, rows in features.items()},
        np.asarray(classes, np.int64),
        torch.cat(kept).numpy() if kept else None,
    )


def _labels(task: DrawTask, seeds: range, denoiser: Denoiser) -> tuple[Labels, list[int]]:
    """(labels for the sampler, the class of each picture or -1). Row r of a grid shows class r modulo their number."""
    num_classes = denoiser.config.label_dim
    drawn = random_classes(denoiser, seeds)
    if drawn is None:
        return None, [-1] * task.count
    if task.grid:
        side = round(task.count**0.5)
        classes = [i // side % num_classes for i in range(task.count)]
        return classes, classes
    return "random", drawn
