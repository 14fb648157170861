"""Which precision needs which device. Imports no torch, so that the trainer can check a run before it starts one."""

from __future__ import annotations

from phema.shared.recipes.run_config import RunConfig


class UnsupportedPrecision(ValueError):
    """The run's precision needs another device; the message is one sentence."""


def check_precision(config: RunConfig, device_type: str) -> None:
    """Raises UnsupportedPrecision for a precision below float32 on a CPU. `device_type` is torch's, "cpu" or "cuda"."""
    if device_type == "cpu" and config.precision != "float32":
        raise UnsupportedPrecision(
            f"precision {config.precision} needs a GPU, but this run would be trained on CPUs: "
            f"on CPU compute in float32, or ask for device cuda"
        )
