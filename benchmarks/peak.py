"""What a device can do at most, by its data sheet."""

from __future__ import annotations

import math

import torch

# Dense TFLOPS in (float16 and bfloat16, float32 without TF32), by a piece of the device's name.
_SHEETS = {"H200": (989.0, 67.0), "H100": (989.0, 67.0), "A100": (312.0, 19.5), "V100": (125.0, 15.7)}


def peak_tflops(device: torch.device, precision: str) -> float:
    """Peak of the device in `precision`; infinity for CPUs and for GPUs not listed here."""
    if device.type != "cuda":
        return math.inf
    name = torch.cuda.get_device_name(device)
    for piece, (half, full) in _SHEETS.items():
        if piece in name:
            return full if precision == "float32" else half
    return math.inf
