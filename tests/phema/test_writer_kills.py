"""A training script that is killed wherever it is, and started again, ends with every snapshot, each whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.shared.snapshots.files.header import read_header
from phema.shared.snapshots.stores.verification import verify
from tests.phema.service import Service

SCRIPT = """
import torch
from phema import PowerFunctionEMA, SnapshotWriter

torch.manual_seed(0)
module = torch.nn.Linear(64, 64)
ema = PowerFunctionEMA(module, [0.05, 0.10])
with SnapshotWriter("stormy", config={"seed": 0}, max_pending=2) as writer:
    print("training", flush=True)
    for step in range(1, 401):
        with torch.no_grad():
            module.weight.add_(torch.randn(64, 64), alpha=0.1)
        ema.update(step * 32)
        if step % 10 == 0:
            writer.save(step * 32, ema)
            print(step, flush=True)
    writer.finish()
"""
KILLS = 6


@pytest.mark.slow
def test_kills_leave_no_half_snapshot_and_lose_none(service: Service, client: Client, tmp_path: Path) -> None:
    chance = random.Random(5)
    environment = {**os.environ, "PHEMA_STATE_DIR": str(service.settings.state_dir), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    for attempt in range(KILLS + 1):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child, child.stdout as lines:
            assert lines.readline() == "training\n"
            if attempt < KILLS:
                for _ in range(chance.randrange(1, 9)):
                    lines.readline()
                child.kill()
            lines.read()
        if attempt < KILLS:
            assert client.runs.get("stormy").state == "running"
    assert child.returncode == 0
    run = client.runs.get("stormy")
    assert (run.state, run.num_images) == ("succeeded", 12_800)
    with service.catalog.transaction(read_only=True) as tx:
        rows = tx.snapshots.list(run.id)
    assert [(row.num_images, row.sigma_rel) for row in rows] == [
        (step * 32, sigma_rel) for step in range(10, 401, 10) for sigma_rel in (0.05, 0.10)
    ]
    for row in rows:
        verify(service.store, row.key, size=row.size, sha256=row.sha256)
        metadata = read_header(service.store, row.key).metadata
        assert metadata is not None
        assert (metadata.run_id, metadata.num_images, metadata.profile.sigma_rel) == (
            run.id,
            row.num_images,
            row.sigma_rel,
        )
    stored = {info.key for info in service.store.list(f"runs/{run.id}/snapshots/")}
    # Each start averages the same weights: what a kill left without a row was registered later, under the same key.
    assert stored == {row.key for row in rows}
