"""Settings of a device for computing networks: memory format and CUDA's arithmetic."""

from __future__ import annotations

import torch


def prepare_device(device: torch.device) -> None:
    """Set the paper's arithmetic: TF32 off, and sums of half-precision products in float32.

    Applies to the whole process and changes nothing without CUDA. cuDNN picks the fastest algorithm for each shape, so
    runs on GPUs do not repeat bit for bit.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = True


def memory_format(device: torch.device) -> torch.memory_format:
    """Format of weights, gradients, averages and pictures: channels last on CUDA, for tensor cores; else contiguous."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
