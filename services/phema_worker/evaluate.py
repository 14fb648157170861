"""Figures and pictures of one set of weights under one sampling recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from phema.services.phema_worker.reference_moments import reference_moments
from phema.services.phema_worker.task_progress import Watch
from phema.shared.datasets import Dataset, DatasetError, OpenRemote, Pictures, open_dataset
from phema.shared.datasets.preparation.vae import decode
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.guidance import guided_steps
from phema.shared.edm2.sampling.heun import sigma_steps
from phema.shared.edm2.sampling.sampler import Labels, sample_batches
from phema.shared.metrics.frechet import Moments, frechet_distance
from phema.shared.metrics.held_out_loss import NUM_LEVELS, held_out_loss
from phema.shared.metrics.random_features import NUM_FEATURES, RandomConvFeatures
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.recipes.run_config import EvaluationRecipe, RunConfig

_BATCH_ACTIVATIONS = 2**24
"""Activations of the widest map that a batch may hold: 21 pictures for EDM2-S, 256 for small networks."""
_LARGEST_BATCH = 256


class NotFinite(ValueError):
    """The network's output holds values that no figure can be made of."""


@dataclass(frozen=True)
class Scores:
    figures: dict[str, float]
    """One entry per metric asked for."""
    png: bytes
    """A grid of samples; with classes, one class per row."""
    num_sampled: int


@dataclass(frozen=True)
class _Sampler:
    """The recipe bound to its networks."""

    denoiser: Denoiser
    guide: Denoiser | None
    recipe: EvaluationRecipe
    batch_size: int
    watch: Watch

    def draw(self, seeds: Sequence[int], class_labels: Labels) -> Iterator[Tensor]:
        """Pictures in batches, float32 [n, C, H, W] on the CPU; picture i depends on seeds[i] and its class alone.

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
            yield _finite("a sampled picture", pictures)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def evaluations(self) -> int:
        """Evaluations per picture: two per Heun step, one for the last, and as many of the guide where it guides."""
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
    watch: Watch,
    remote: OpenRemote | None = None,
) -> Scores:
    """Score a network trained by `config`. Equal arguments give equal figures on one machine.

    `remote` opens datasets behind S3. Raises NotFinite, SamplerError (the guide does not fit), DatasetError,
    HubUnreachable (of the VAE), and Cancelled at the next evaluation of the network.
    """
    sampler = _Sampler(denoiser, guide, recipe, batch_size(denoiser), watch)
    dataset = open_dataset(config.dataset, remote=remote)
    dataset.check(denoiser.config)
    figures: dict[str, float] = {}
    with _stoppable(denoiser, watch):
        watch.expect(_work(sampler, dataset))
        if "held_out_loss" in recipe.metrics:
            watch.message = "denoising held-out pictures"
            figures["held_out_loss"] = _held_out(sampler, config, dataset.held_out)
        watch.message = "sampling"
        pictures = torch.cat([*_grid(sampler)])
        if dataset.facts.encoding == "latents" and config.dataset.vae is not None:
            pictures = decode(pictures, config.dataset.vae, sampler.device)
        if "frechet" in recipe.metrics:
            figures["frechet"] = _frechet(sampler, dataset, config.dataset.path)
    return Scores(figures, grid_png(pictures.numpy(), recipe.grid), _num_sampled(recipe))


def batch_size(denoiser: Denoiser) -> int:
    """Pictures per batch on a GPU and of held-out ones, so that memory depends on neither recipe nor network."""
    network = denoiser.config
    widest = max(resolution * resolution * channels for resolution, channels in network.levels)
    return max(1, min(_LARGEST_BATCH, _BATCH_ACTIVATIONS // widest))


@contextmanager
def _stoppable(denoiser: Denoiser, watch: Watch) -> Iterator[None]:
    """Every evaluation of the network is a chance to stop."""
    handle = denoiser.register_forward_pre_hook(lambda *_: watch.check())
    try:
        yield
    finally:
        handle.remove()


def _work(sampler: _Sampler, dataset: Dataset) -> int:
    """Evaluations of network and guide, in pictures."""
    held_out = len(dataset.held_out) * NUM_LEVELS if "held_out_loss" in sampler.recipe.metrics else 0
    return _num_sampled(sampler.recipe) * sampler.evaluations + held_out


def _num_sampled(recipe: EvaluationRecipe) -> int:
    return recipe.grid**2 + (recipe.num_samples if "frechet" in recipe.metrics else 0)


def _held_out(sampler: _Sampler, config: RunConfig, pictures: Pictures) -> float:
    if not len(pictures):
        raise DatasetError(
            "dataset.held_out of the run is 0, so no pictures were kept for held_out_loss; leave it out of metrics"
        )
    loss = held_out_loss(
        sampler.denoiser,
        pictures,
        p_mean=config.p_mean,
        p_std=config.p_std,
        batch_size=sampler.batch_size,
        advance=sampler.watch.advance,
    )
    return _finite("the held-out loss", torch.tensor(loss, dtype=torch.float64)).item()


def _grid(sampler: _Sampler) -> Iterator[Tensor]:
    """The pictures that are kept: row r shows class r, starting again when there are more rows than classes."""
    side, classes = sampler.recipe.grid, sampler.denoiser.config.label_dim
    labels = [i // side % classes for i in range(side * side)] if classes else None
    return sampler.draw(_seeds(sampler.recipe, side * side), labels)


def _frechet(sampler: _Sampler, dataset: Dataset, path: str | None) -> float:
    """Fréchet distance between samples with classes drawn uniformly and all training pictures."""
    network, device = sampler.denoiser.config, sampler.device
    features = RandomConvFeatures(network.img_channels, network.img_resolution, device)
    drawn = Moments(NUM_FEATURES)
    for pictures in sampler.draw(_seeds(sampler.recipe, sampler.recipe.num_samples), "random"):
        drawn.add(features(pictures.to(device)).cpu().numpy())
    return frechet_distance(drawn, reference_moments(dataset, path, sampler.watch, device))


def _finite(what: str, values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise NotFinite(f"{what} holds values that are not finite; these weights cannot be evaluated by this recipe")
    return values


def _seeds(recipe: EvaluationRecipe, count: int) -> range:
    return range(recipe.seed, recipe.seed + count)
