"""What must stay light does: planning a reconstruction needs NumPy alone."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "posthoc",
        "movement",
        "profiles",
        "basis",
        "powerfunction",
        "config",
        "topology",
        "schedule",
        "seeding",
        "frechet",
    ],
)
def test_without_torch(module: str) -> None:
    code = f"import sys, phema.shared.edm2.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
