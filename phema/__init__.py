"""phema: train EDM2 diffusion models on Ray and choose the EMA length after training.

`import phema` loads no other package. A public name imports its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phema.client.client import Client
    from phema.errors import PhemaError
    from phema.sdk.importing import import_run
    from phema.sdk.networks import load, metadata, sample, save_grid
    from phema.sdk.snapshot_writer import SnapshotWriter
    from phema.shared.edm2.averaging.ema import PowerFunctionEMA
    from phema.shared.snapshots.profile import Profile

_MODULES = {
    "Client": "phema.client.client",
    "PhemaError": "phema.errors",
    "PowerFunctionEMA": "phema.shared.edm2.averaging.ema",
    "Profile": "phema.shared.snapshots.profile",
    "SnapshotWriter": "phema.sdk.snapshot_writer",
    "import_run": "phema.sdk.importing",
    "load": "phema.sdk.networks",
    "metadata": "phema.sdk.networks",
    "sample": "phema.sdk.networks",
    "save_grid": "phema.sdk.networks",
}

__all__ = [
    "Client",
    "PhemaError",
    "PowerFunctionEMA",
    "Profile",
    "SnapshotWriter",
    "import_run",
    "load",
    "metadata",
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
