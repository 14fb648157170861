"""One training iteration."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.measurements.stopwatch import Stopwatch
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.edm2.networks.layers import normalize_weights_
from phema.shared.edm2.seeding import iteration_seed
from phema.shared.edm2.training.learning_rate import learning_rate
from phema.shared.recipes.run_config import RunConfig

PICTURES_PER_PASS = 64
"""Pictures in one backward pass of the authors' GPUs: 32 GPUs share a batch of 2048 (Karras et al. 2024, Table 6)."""


class StepFigures(NamedTuple):
    """Figures of this worker's share of a step. Tensors stay on the device, and reading one waits for the device."""

    loss: Tensor
    """Uncertainty-weighted loss summed over all elements of all pictures."""
    weighted_mse: Tensor
    """Plain weighted squared error per element of each picture [N]."""
    sigma: Tensor
    """Noise level of each picture [N]."""
    nonfinite: Tensor
    """Number of elements of the whole batch's gradient that were not finite."""
    grad_norm: Tensor
    """Euclidean norm of the whole batch's gradient as Adam sees it: scaled by `loss_scaling`, finite elements only."""
    learning_rate: float


def backward_boost(config: RunConfig) -> float:
    """Power of two by which half-precision backward passes multiply the loss; 1 in float32.

    In half precision, gradients scaled by loss_scaling / batch_size fall below the smallest normal numbers. The
    authors scale by loss_scaling / 64 (one GPU's 64 pictures of a batch of 2048) and average over GPUs in float32.
    This function gives about the same scale for any number of workers. The summed gradient is divided by the result,
    which is exact for a power of two.
    """
    if config.precision == "float32":
        return 1.0
    return float(2 ** max(0, round(math.log2(config.batch_size / PICTURES_PER_PASS))))


def train_step(
    state: TrainingState, batch: Batch, config: RunConfig, group: WorkerGroup, stopwatch: Stopwatch | None = None
) -> StepFigures:
    """Train `state` on one batch and advance its clock by the batch size. Every worker must call it.

    The step first forces weights to unit magnitude (Eq. 66). The loss is the sum over elements, scaled by
    loss_scaling / batch_size; during the backward pass it is also scaled by `backward_boost`. Non-finite gradient
    elements become 0. Then Adam and the averages are updated. `stopwatch` measures the parts of the step.
    """
    stopwatch = stopwatch or Stopwatch(group.device)
    # Dropout draws from torch's global generators. This seed makes its masks depend on the clock and the worker alone.
    torch.manual_seed(iteration_seed(config.seed, group.rank, state.num_images))
    if state.denoiser.forces_weights:
        normalize_weights_(state.denoiser)
    state.gradients.zero_()
    boost = backward_boost(config)
    losses, errors = [], []
    for part in batch.parts(config.microbatch):
        out = state.loss(state.denoiser, part.images, part.labels, sigma=part.sigma, noise=part.noise)
        loss = out.loss.sum()
        (loss * (config.loss_scaling / config.batch_size * boost)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        errors.append(out.weighted_mse)
    stopwatch.lap("forward_backward")
    state.gradients.reduce_(group)
    if boost != 1.0:
        state.gradients.flat.div_(boost)
    nonfinite, grad_norm = state.gradients.drop_nonfinite_()
    rate = learning_rate(
        state.num_images,
        batch_size=config.batch_size,
        alpha_ref=config.learning_rate,
        t_ref=config.lr_decay_iterations,
        rampup_images=config.lr_rampup_images,
    )
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = rate
    state.optimizer.step()
    stopwatch.lap("optimizer")
    state.num_images += config.batch_size
    state.update_averages(config.batch_size)
    stopwatch.lap("ema")
    return StepFigures(
        loss=sum(losses[1:], losses[0]),
        weighted_mse=torch.cat(errors),
        sigma=batch.sigma,
        nonfinite=nonfinite,
        grad_norm=grad_norm,
        learning_rate=rate,
    )
