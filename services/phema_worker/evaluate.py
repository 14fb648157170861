"""Compute the figures and pictures of one set of weights under one evaluation recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from phema.services.phema_worker.reference_moments import reference_moments
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets import Dataset, OpenRemote, open_dataset
from phema.shared.datasets.preparation.vae import decode
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.guidance import guided_steps
from phema.shared.edm2.sampling.heun import sigma_steps
from phema.shared.edm2.sampling.sampler import Labels, sample_batches
from phema.shared.metrics import scoring
from phema.shared.metrics.registry import METRICS
from phema.shared.metrics.scoring import ScoringInputs
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig

_BATCH_ACTIVATIONS = 2**24
"""Most activations that a batch may have in the network's widest map: 21 pictures of EDM2-S, 256 of small networks."""
_LARGEST_BATCH = 256


class NotFinite(ValueError):
    """The network's output, or a figure computed from it, is not finite."""


@dataclass(frozen=True)
class Scores:
    figures: dict[str, float]
    """Figure name to value, for all metrics of the recipe."""
    png: bytes
    """Grid of samples; for a network with classes, row r shows class r."""
    num_sampled: int


@dataclass(frozen=True)
class _Sampler:
    """Draws pictures from a network, and its guide, as the recipe says."""

    denoiser: Denoiser
    guide: Denoiser | None
    recipe: EvaluationRecipe
    batch_size: int
    watch: TaskProgress

    def draw(self, seeds: Sequence[int], class_labels: Labels) -> Iterator[Tensor]:
        """Draw pictures in batches, float32 [n, C, H, W] on the CPU. Picture i depends on seeds[i] and its class only.

        Raises NotFinite.
        """
        recipe = self.recipe
        batches = sample_batches(
            self.denoiser,
            seeds=seeds,
            class_labels=class_labels,
            sigmas=self.sigmas,
            churn=recipe.churn,
            churn_min=recipe.churn_min,
            churn_max=math.inf if recipe.churn_max is None else recipe.churn_max,
            churn_noise=recipe.churn_noise,
            guide=self.guide,
            guidance=recipe.guidance,
            guidance_interval=recipe.guidance_interval,
            batch_size=self.batch_size,
        )
        for pictures in batches:
            self.watch.advance(len(pictures) * self.evaluations)
            if not torch.isfinite(pictures).all():
                raise NotFinite(
                    "a sampled picture holds values that are not finite; these weights cannot be evaluated by this "
                    "recipe"
                )
            yield pictures

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def evaluations(self) -> int:
        """Evaluations per picture: two per Heun step and one for the last step, twice as many at guided steps."""
        recipe = self.recipe
        per_step = [2] * (recipe.num_steps - 1) + [1]
        if self.guide is None or recipe.guidance == 1:
            return sum(per_step)
        steps = guided_steps(self.sigmas, recipe.guidance_interval)
        return sum(count * (1 + is_guided) for count, is_guided in zip(per_step, steps, strict=True))

    @property
    def sigmas(self) -> Tensor:
        recipe = self.recipe
        return sigma_steps(recipe.num_steps, recipe.sigma_min, recipe.sigma_max, recipe.rho)


def evaluate(
    denoiser: Denoiser,
    guide: Denoiser | None,
    config: RunConfig,
    recipe: EvaluationRecipe,
    watch: TaskProgress,
    remote: OpenRemote | None = None,
) -> Scores:
    """Score a network that `config` trained. Equal arguments give equal figures on one machine.

    `remote` opens datasets behind S3. Raises NotFinite, SamplerError (the guide does not fit), DatasetError,
    FrechetError, HubUnreachable (of the VAE), and Cancelled at the next evaluation of the network.
    """
    sampler = _Sampler(denoiser, guide, recipe, batch_size(denoiser), watch)
    dataset = open_dataset(config.dataset, remote=remote)
    dataset.check(denoiser.config)
    inputs = _inputs(sampler, config, dataset)
    names = list(dict.fromkeys(recipe.metrics))
    with_samples = [name for name in names if "samples" in METRICS[name].needs]
    without_samples = [name for name in names if name not in with_samples]
    figures: dict[str, float] = {}
    with _stoppable(denoiser, watch):
        work = sum(scoring.work(name, inputs) for name in names)
        watch.expect(recipe.grid**2 * sampler.evaluations + work)
        for name in without_samples:
            figures |= _computed(name, inputs)
        watch.message = "sampling"
        pictures = torch.cat([*_grid(sampler)])
        if dataset.info.encoding == "latents" and config.dataset.vae is not None:
            pictures = decode(pictures, config.dataset.vae, sampler.device)
        for name in with_samples:
            figures |= _computed(name, inputs)
    num_sampled = recipe.grid**2 + recipe.num_samples * len(with_samples)
    return Scores(figures, grid_png(pictures.numpy(), recipe.grid), num_sampled)


def batch_size(denoiser: Denoiser) -> int:
    """Pictures per batch, so that the memory that a batch takes depends on neither recipe nor network."""
    network = denoiser.config
    widest = max(resolution * resolution * channels for resolution, channels in network.levels)
    return max(1, min(_LARGEST_BATCH, _BATCH_ACTIVATIONS // widest))


@contextmanager
def _stoppable(denoiser: Denoiser, watch: TaskProgress) -> Iterator[None]:
    """Let every evaluation of the network check whether the task was cancelled."""
    handle = denoiser.register_forward_pre_hook(lambda *_: watch.check())
    try:
        yield
    finally:
        handle.remove()


def _inputs(sampler: _Sampler, config: RunConfig, dataset: Dataset) -> ScoringInputs:
    recipe, watch = sampler.recipe, sampler.watch

    def announce(message: str) -> None:
        watch.message = message

    return ScoringInputs(
        denoiser=sampler.denoiser,
        dataset=dataset,
        p_mean=config.p_mean,
        p_std=config.p_std,
        batch_size=sampler.batch_size,
        num_samples=recipe.num_samples,
        evaluations_per_sample=sampler.evaluations,
        samples=lambda: sampler.draw(_seeds(recipe, recipe.num_samples), "random"),
        reference=lambda: reference_moments(dataset, config.dataset.path, watch, sampler.device),
        advance=watch.advance,
        announce=announce,
    )


def _computed(name: str, inputs: ScoringInputs) -> dict[str, float]:
    """Figures of one metric. Raises NotFinite."""
    figures = scoring.compute(name, inputs)
    if not all(map(math.isfinite, figures.values())):
        raise NotFinite(f"metric {name} is not finite; these weights cannot be evaluated by this recipe")
    return figures


def _grid(sampler: _Sampler) -> Iterator[Tensor]:
    """Draw the pictures of the grid. Row r shows class r modulo the number of classes."""
    side, classes = sampler.recipe.grid, sampler.denoiser.config.label_dim
    labels = [i // side % classes for i in range(side * side)] if classes else None
    return sampler.draw(_seeds(sampler.recipe, side * side), labels)


def _seeds(recipe: EvaluationRecipe, count: int) -> range:
    return range(recipe.seed, recipe.seed + count)
