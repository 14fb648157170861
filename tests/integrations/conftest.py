"""These tests run in an environment of their own (`make test-integrations`), without the fixtures of the other tests.

`--confcutdir tests/integrations` keeps pytest from loading `tests/conftest.py`, whose fixtures need packages that the
environment does not have. `tests/conftest.py` in turn leaves this folder out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before torch is imported: two threads that wait for each other on busy cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No library asks a server for news, or sends anything.
os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "DO_NOT_TRACK": "true"}
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}

FOREIGN_WARNINGS = (
    # The libraries' own: what they say of their settings on a machine without a GPU, and of each other's versions.
    "ignore::UserWarning:lightning.*",
    "ignore::DeprecationWarning:lightning.*",
    "ignore:The ``noload`` loader strategy is deprecated",  # MLflow's tables under SQLAlchemy 2.1
    "ignore::FutureWarning:lightning.*",
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in FOREIGN_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PHEMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    if "wandb" in sys.modules:
        # It remembers the folder in which the process used it first.
        sys.modules["wandb"].teardown()
