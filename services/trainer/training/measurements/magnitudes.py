"""Magnitudes of the network while it trains, as the paper's figures 3 and 15 show them."""

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
    """Whether they are measured at the status of `num_images`.

    They are at the first status at or after each multiple of `magnitudes_every`, and at the end.
    """
    previous_status = (num_images - 1) // config.status_every * config.status_every
    passed = num_images // config.magnitudes_every > previous_status // config.magnitudes_every
    return passed or num_images == config.total_images


@torch.no_grad()
def magnitudes(state: TrainingState, batch: Batch) -> dict[str, float]:
    """`activation/enc/8/max`, `weight/dec/4/mean`, … of the run's first average, with `batch` as its input.

    The same of the weights in training under `training_activation/…` and `training_weight/…`. Dropout is off. Draws
    no random numbers and leaves the state as it was, so that asking does not change what is trained.
    """
    denoiser = state.denoiser
    with _evaluated(denoiser):
        training = _measured(denoiser, batch)
        with _borrowed(denoiser, state.ema.tensors(0)):
            averaged = _measured(denoiser, batch)
    return {**averaged, **{f"training_{name}": value for name, value in training.items()}}


def _measured(denoiser: Denoiser, batch: Batch) -> dict[str, float]:
    with ActivationMagnitudes(denoiser) as activations:
        denoiser(batch.images + batch.noise * batch.sigma[:, None, None, None], batch.sigma, batch.labels)
    return {
        **{f"activation/{bucket}": value for bucket, value in activations.magnitudes().items()},
        **{f"weight/{bucket}": value for bucket, value in weight_magnitudes(denoiser).items()},
    }


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def _borrowed(module: nn.Module, averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Other parameters in the module's place: no copy of either."""
    own = {name: parameter.data for name, parameter in module.named_parameters()}
    try:
        for name, parameter in module.named_parameters():
            parameter.data = averages[name]
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = own[name]
