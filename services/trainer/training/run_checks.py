"""Which precision a run may be trained in where."""

from __future__ import annotations

from phema.shared.recipes.run_config import RunConfig


class UnsupportedPrecision(ValueError):
    """The run's precision needs another device; the message is one sentence."""


def check_precision(config: RunConfig, device_type: str) -> None:
    """Raises UnsupportedPrecision for a precision below float32 on a CPU."""
    if device_type == "cpu" and config.precision != "float32":
        raise UnsupportedPrecision(
            f"precision {config.precision} needs a GPU, but this run would be trained on CPUs: "
            f"on CPU compute in float32, or ask for device cuda"
        )
