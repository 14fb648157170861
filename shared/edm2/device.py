"""How networks compute on a device: memory format, and what CUDA may take liberties with."""

from __future__ import annotations

import torch


def prepare_device(device: torch.device) -> None:
    """Arithmetic as the paper has it: TF32 off, and sums of half-precision products in float32.

    For the process, and of consequence on CUDA only. cuDNN picks the fastest algorithm for each shape, so that runs
    on GPUs do not repeat bit for bit.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = True


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on CUDA, where tensor cores want it: weights, gradients, averages and pictures all have it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
