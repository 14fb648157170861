"""The short storm: a few faults over real work, the loss of the catalog among them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.local.postgres import find_binaries
from tests.chaos.run import run_storm

FAULTS = 11
SEED = 9
"""The same in every run of CI. `make chaos` draws another one each time."""


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_short_storm_loses_nothing(tmp_path: Path) -> None:
    if find_binaries() is None:
        if os.environ.get("PHEMA_REQUIRE_POSTGRES"):
            pytest.fail("PHEMA_REQUIRE_POSTGRES is set, but there is no initdb; set PHEMA_POSTGRES_BIN")
        pytest.skip("no PostgreSQL on this machine; set PHEMA_POSTGRES_BIN to its bin folder")
    outcome = run_storm(faults=FAULTS, seed=SEED, short=True, logs=tmp_path / "logs", report=print)
    assert len(outcome.storm.injected) == FAULTS
    assert any("bit for bit" in line for line in outcome.checks)
