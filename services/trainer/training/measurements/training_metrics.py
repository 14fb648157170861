"""Sets a run's Prometheus metrics from the figures of its history rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phema.services.trainer.training.measurements.stopwatch import peak_memory
from phema.shared.telemetry import Meters, metrics

GAUGES = {
    "loss": metrics.TRAINING_LOSS,
    "denoising_loss": metrics.TRAINING_DENOISING_LOSS,
    "learning_rate": metrics.TRAINING_LEARNING_RATE,
    "grad_norm": metrics.GRADIENT_NORM,
    "images_per_second": metrics.TRAINING_SPEED,
    "data_wait_share": metrics.DATA_WAIT_SHARE,
}
MAGNITUDES = {"activation": metrics.ACTIVATION_MAGNITUDE, "weight": metrics.WEIGHT_MAGNITUDE}


def set_training_metrics(meters: Meters, run_id: str, values: Mapping[str, float], device: torch.device) -> None:
    """Serve `values`, one history row of the run by figure name, and the memory held on `device`."""
    for name, gauge in GAUGES.items():
        meters.set(gauge, values[name], run_id=run_id)
    meters.add(metrics.NONFINITE_GRADIENTS, values["grad_nonfinite"], run_id=run_id)
    meters.set(metrics.TRAINING_MEMORY, peak_memory(device), device=device.type, run_id=run_id)
    for name, value in values.items():
        match name.split("/"):
            case [family, side, resolution, statistic]:
                meters.set(
                    MAGNITUDES[family.removeprefix("training_")],
                    value,
                    run_id=run_id,
                    weights="training" if family.startswith("training_") else "ema",
                    side=side,
                    resolution=resolution,
                    statistic=statistic,
                )
            case ["loss_by_noise", bin_number]:
                meters.set(metrics.LOSS_BY_NOISE, value, bin=bin_number, run_id=run_id)
            case ["step_seconds", part]:
                meters.set(metrics.STEP_SECONDS, value, part=part, run_id=run_id)
