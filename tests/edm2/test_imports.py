"""Modules that must not import torch: planning a reconstruction needs NumPy only."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "edm2.averaging.posthoc",
        "edm2.averaging.random_walk",
        "edm2.averaging.weightings",
        "edm2.averaging.inner_products",
        "edm2.averaging.basis",
        "edm2.averaging.power_function",
        "edm2.networks.config",
        "edm2.networks.topology",
        "edm2.training.learning_rate",
        "edm2.seeding",
        "metrics.moments",
    ],
)
def test_without_torch(module: str) -> None:
    code = f"import sys, phema.shared.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
