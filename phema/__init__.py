"""phema: train EDM2 diffusion models on Ray and choose the EMA length after training.

`import phema` loads no other package. A public name imports its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phema.client.async_client import AsyncClient
    from phema.client.client import Client
    from phema.client.run_configurations import preset
    from phema.client.run_files import read_run_file
    from phema.errors import PhemaError
    from phema.sdk.importing import import_run
    from phema.sdk.learned_averages.average_search import AverageSearch
    from phema.sdk.learned_averages.learning import learn_average
    from phema.sdk.learned_averages.through_service import learn_by_figure
    from phema.sdk.networks import load, metadata, sample, save_grid
    from phema.sdk.pretrained_denoiser import PretrainedDenoiser
    from phema.sdk.run_folders.opening import open
    from phema.sdk.snapshot_writer import SnapshotWriter
    from phema.shared.edm2.averaging.ema import PowerFunctionEMA
    from phema.shared.recipes.run_config import RunConfig
    from phema.shared.snapshots.profile import Profile

_MODULES = {
    "AsyncClient": "phema.client.async_client",
    "AverageSearch": "phema.sdk.learned_averages.average_search",
    "Client": "phema.client.client",
    "PhemaError": "phema.errors",
    "PowerFunctionEMA": "phema.shared.edm2.averaging.ema",
    "PretrainedDenoiser": "phema.sdk.pretrained_denoiser",
    "Profile": "phema.shared.snapshots.profile",
    "RunConfig": "phema.shared.recipes.run_config",
    "SnapshotWriter": "phema.sdk.snapshot_writer",
    "import_run": "phema.sdk.importing",
    "learn_average": "phema.sdk.learned_averages.learning",
    "learn_by_figure": "phema.sdk.learned_averages.through_service",
    "load": "phema.sdk.networks",
    "metadata": "phema.sdk.networks",
    "open": "phema.sdk.run_folders.opening",
    "preset": "phema.client.run_configurations",
    "read_run_file": "phema.client.run_files",
    "sample": "phema.sdk.networks",
    "save_grid": "phema.sdk.networks",
}

__all__ = [
    "AsyncClient",
    "AverageSearch",
    "Client",
    "PhemaError",
    "PowerFunctionEMA",
    "PretrainedDenoiser",
    "Profile",
    "RunConfig",
    "SnapshotWriter",
    "import_run",
    "learn_average",
    "learn_by_figure",
    "load",
    "metadata",
    "open",
    "preset",
    "read_run_file",
    "sample",
    "save_grid",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'phema' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
