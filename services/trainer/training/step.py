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
"""Of the authors' GPUs: 32 share a batch of 2048 (Karras et al. 2024, Table 6)."""


class StepFigures(NamedTuple):
    """Of this worker's share, on its device: nobody waits for them until a status is due."""

    loss: Tensor
    """Uncertainty-weighted loss summed over all elements of all pictures."""
    weighted_mse: Tensor
    """Plain weighted squared error per element, of each picture [N]."""
    sigma: Tensor
    """Their noise levels [N]."""
    nonfinite: Tensor
    """Elements of the whole batch's gradient that were not finite."""
    grad_norm: Tensor
    """Euclidean norm of the whole batch's gradient as Adam sees it: scaled by loss_scaling, finite elements only."""
    learning_rate: float


def backward_boost(config: RunConfig) -> float:
    """Power of two by which backward passes below float32 multiply the loss; the reduced gradient is divided by it.

    In half precision, gradients at loss_scaling / batch size fall below the smallest normal numbers. The authors'
    passes run at loss_scaling / (a GPU's part of the batch), 64 pictures of 2048, and the mean over GPUs follows in
    float32. So does this, whatever the number of workers; undoing a power of two is exact.
    """
    if config.precision == "float32":
        return 1.0
    return float(2 ** max(0, round(math.log2(config.batch_size / PICTURES_PER_PASS))))


def train_step(
    state: TrainingState, batch: Batch, config: RunConfig, group: WorkerGroup, watch: Stopwatch | None = None
) -> StepFigures:
    """Take `state` one batch further.

    Weights are forced to unit magnitude first (Eq. 66); the loss is summed over elements and scaled by loss_scaling /
    batch size (and on the way by `backward_boost`); non-finite gradients become 0; Adam and then the averages follow.
    `watch` is told where the time goes.
    """
    watch = watch or Stopwatch(group.device)
    # Dropout draws from torch's global generators: its masks follow from the clock, but differ between workers.
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
    watch.lap("forward_backward")
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
    watch.lap("optimizer")
    state.num_images += config.batch_size
    state.update_averages(config.batch_size)
    watch.lap("ema")
    return StepFigures(
        loss=sum(losses[1:], losses[0]),
        weighted_mse=torch.cat(errors),
        sigma=batch.sigma,
        nonfinite=nonfinite,
        grad_norm=grad_norm,
        learning_rate=rate,
    )
