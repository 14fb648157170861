"""Why a worker cannot go on, where a change of the run's configuration helps: sentences that name what to change."""

from __future__ import annotations

import torch

from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.training_state import TrainingState
from phema.shared.recipes.run_config import RunConfig

_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "bad_alloc",
    "could not create a primitive",
    "running low on memory",
)
"""What torch's allocators, oneDNN and Ray's memory monitor say. Allocators for CPUs raise plain RuntimeErrors."""


class OutOfMemory(RuntimeError):
    """The worker's device has too little memory for the run; the message is one sentence."""


class NotFinite(ValueError):
    """The gradients of too many steps in a row were not finite; the message is one sentence."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, on a GPU or in the process."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and tells_of_lack_of_memory(str(error))


def tells_of_lack_of_memory(text: str) -> bool:
    """Whether an error's text says that memory was lacking. For errors of other processes, which arrive as text."""
    return any(phrase in text.lower() for phrase in _PHRASES)


def fitting_batch(state: TrainingState, batch: Batch, config: RunConfig) -> int | None:
    """The largest power of two below the failed number of images for which a backward pass fits into memory now.

    None if not even one image fits. Changes the gradients, so the state must not be trained any further. Tries on this
    device, beside all that the run holds there; the optimizer's moments are counted if they do not exist yet.
    """
    moments = [] if state.optimizer.state else _moments(state)
    if moments is None:
        return None
    size = 2 ** ((config.microbatch - 1).bit_length() - 1) if config.microbatch > 1 else 0
    while size >= 1:
        if _fits(state, batch, size):
            return size
        size //= 2
    return None


def _moments(state: TrainingState) -> list[torch.Tensor] | None:
    """As much memory as Adam takes at its first step; None if that does not fit."""
    try:
        return [torch.empty_like(p) for p in state.denoiser.parameters() for _ in range(2)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _fits(state: TrainingState, batch: Batch, size: int) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        part = next(batch.parts(size))
        out = state.loss(state.denoiser, part.images, part.labels, sigma=part.sigma, noise=part.noise)
        out.loss.sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, MemoryError):
        return False  # whatever it is, this size cannot be proposed
    return True


def out_of_memory(config: RunConfig, device: torch.device, fitting: int | None) -> OutOfMemory:
    """`fitting`: as of `fitting_batch`."""
    asked = config.max_batch_per_worker
    what = f"max_batch_per_worker {'null' if asked is None else asked} is too large for the memory of {device}"
    if config.microbatch == 1 or fitting is None:
        return OutOfMemory(
            f"{what}: not even 1 image at a time fits; use a smaller network, fewer ema_sigma_rels or a device with "
            "more memory"
        )
    return OutOfMemory(
        f"{what}: a backward pass of {config.microbatch} images at a time failed, and one of {fitting} fits; start the "
        f"run with max_batch_per_worker {fitting}, which changes neither the batch nor the learning rate"
    )


def network_does_not_fit(device: torch.device) -> OutOfMemory:
    return OutOfMemory(
        f"the network, its optimizer and its averages do not fit into the memory of {device}: use a smaller network, "
        "fewer ema_sigma_rels or a device with more memory"
    )


def not_finite(config: RunConfig, steps: int, num_images: int) -> NotFinite:
    lower = f"lower learning_rate {config.learning_rate:g} or loss_scaling {config.loss_scaling:g}"
    if config.precision != "float32":
        lower += f", use precision float32 instead of {config.precision}"
    return NotFinite(
        f"the gradients of {steps} steps in a row were not finite at {num_images} images: {lower}, and look for broken "
        "values in the dataset"
    )
