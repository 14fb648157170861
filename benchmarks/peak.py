"""Peak performance of devices from their data sheets, and the share of it that a program reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

# Dense TFLOPS in (float16 and bfloat16, float32 without TF32), by part of the device's name.
_SHEETS = {"H200": (989.0, 67.0), "H100": (989.0, 67.0), "A100": (312.0, 19.5), "V100": (125.0, 15.7)}


def peak_tflops(device: torch.device, precision: str) -> float:
    """Peak TFLOPS of the device in `precision`; infinity for CPUs and for GPUs not listed here."""
    if device.type != "cuda":
        return math.inf
    name = torch.cuda.get_device_name(device)
    for piece, (half, full) in _SHEETS.items():
        if piece in name:
            return full if precision == "float32" else half
    return math.inf


class Timed(Protocol):
    """Timed rounds of a program that computes in `precision`."""

    name: str
    precision: str
    seconds: list[float]


def compared(variants: Sequence[Timed], *, images: int, gflops: float, device: torch.device) -> list[dict[str, Any]]:
    """One row per variant: its fastest round of `images`, over that of the first. `gflops` (MACs) are per image."""
    plain = min(variants[0].seconds)
    rows = []
    for variant in variants:
        seconds = min(variant.seconds)
        peak = peak_tflops(device, variant.precision)
        share = 2 * gflops * images / seconds / (1e3 * peak)  # hardware counts a MAC as 2 flops
        rows.append(
            {
                "variant": variant.name,
                "images/s": images / seconds,
                "over plain": plain / seconds,
                "share of peak": share if math.isfinite(peak) else "-",
            }
        )
    return rows
