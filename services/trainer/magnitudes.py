"""Magnitudes of the averaged network while it trains, as the paper's figures 3 and 15 show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from services.trainer.batches import Batch
from services.trainer.state import TrainingState
from shared.edm2.magnitudes import ActivationMagnitudes, weight_magnitudes


@torch.no_grad()
def averaged_magnitudes(state: TrainingState, batch: Batch) -> dict[str, float]:
    """`activation/enc/8/max`, `weight/dec/4/mean`, …: of the run's first average, with `batch` as its input.

    Draws no random numbers and leaves the state as it was, so that asking does not change what is trained.
    """
    denoiser = state.denoiser
    with _borrowed(denoiser, state.ema.tensors(0)), ActivationMagnitudes(denoiser) as activations:
        noisy = batch.images + batch.noise * batch.sigma[:, None, None, None]
        denoiser(noisy, batch.sigma, batch.labels)
        weights = weight_magnitudes(denoiser)
    return {
        **{f"activation/{bucket}": value for bucket, value in activations.magnitudes().items()},
        **{f"weight/{bucket}": value for bucket, value in weights.items()},
    }


@contextmanager
def _borrowed(module: nn.Module, averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Evaluation mode with other parameters in the module's place: no copy of either."""
    own = {name: parameter.data for name, parameter in module.named_parameters()}
    training = module.training
    try:
        for name, parameter in module.named_parameters():
            parameter.data = averages[name]
        module.eval()
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = own[name]
        module.train(training)
