"""phema: train EDM2 diffusion models on Ray and choose the EMA length after training.

`import phema` is light: torch is loaded by the names that need it when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phema.client import Client
    from phema.errors import PhemaError
    from phema.importing import import_run
    from phema.models import load, metadata, sample, save_grid
    from phema.shared.edm2.ema import PowerFunctionEMA
    from phema.shared.snapshots.profile import Profile
    from phema.writer import SnapshotWriter

_HOMES = {
    "Client": "phema.client",
    "PhemaError": "phema.errors",
    "PowerFunctionEMA": "phema.shared.edm2.ema",
    "Profile": "phema.shared.snapshots.profile",
    "SnapshotWriter": "phema.writer",
    "import_run": "phema.importing",
    "load": "phema.models",
    "metadata": "phema.models",
    "sample": "phema.models",
    "save_grid": "phema.models",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'phema' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
