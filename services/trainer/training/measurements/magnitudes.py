"""Magnitudes of weights and activations while a network trains, as in the paper's figures 3 and 15."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.training_state import TrainingState
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.training.magnitudes import ActivationMagnitudes, weight_magnitudes
from phema.shared.recipes.run_config import RunConfig


def magnitudes_due(config: RunConfig, num_images: int) -> bool:
    """Whether the status at `num_images` includes magnitudes.

    They are due at the first status at or after each multiple of `magnitudes_every`, and at the end of the run.
    """
    previous_status = (num_images - 1) // config.status_every * config.status_every
    passed = num_images // config.magnitudes_every > previous_status // config.magnitudes_every
    return passed or num_images == config.total_images


@torch.no_grad()
def measure_magnitudes(state: TrainingState, batch: Batch) -> dict[str, float]:
    """Magnitudes by name, with `batch` as the network's input and dropout off.

    `activation/enc/8/max`, `weight/dec/4/mean`, … are those of the run's first average;
    `training_activation/…` and `training_weight/…` those of the weights in training. Draws no random numbers and
    leaves `state` unchanged, so that measuring does not change what is trained.
    """
    denoiser = state.denoiser
    with _in_evaluation_mode(denoiser):
        training = _magnitudes_of(denoiser, batch)
        with _replaced_parameters(denoiser, state.ema.tensors(0)):
            averaged = _magnitudes_of(denoiser, batch)
    return {**averaged, **{f"training_{name}": value for name, value in training.items()}}


def _magnitudes_of(denoiser: Denoiser, batch: Batch) -> dict[str, float]:
    with ActivationMagnitudes(denoiser) as activations:
        denoiser(batch.images + batch.noise * batch.sigma[:, None, None, None], batch.sigma, batch.labels)
    return {
        **{f"activation/{bucket}": value for bucket, value in activations.magnitudes().items()},
        **{f"weight/{bucket}": value for bucket, value in weight_magnitudes(denoiser).items()},
    }


@contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def _replaced_parameters(module: nn.Module, averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the module's parameters are `averages`. Copies neither."""
    own = {name: parameter.data for name, parameter in module.named_parameters()}
    try:
        for name, parameter in module.named_parameters():
            parameter.data = averages[name]
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = own[name]
