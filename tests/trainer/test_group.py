"""Two workers as two processes with gloo, without Ray: they stay equal and are as deterministic as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.attempt import Attempt
from services.trainer.local import claim_locally
from services.trainer.outcome import conclude
from shared.catalog import Catalog, JobState
from shared.snapshots import ObjectStore
from tests.trainer.support import snapshots_of, tiny_config

WORKER = """
import hashlib, json, sys
import torch, torch.distributed as dist
from services.trainer import loop
from services.trainer.attempt import load_attempt
from services.trainer.group import Group
from shared.catalog import Catalog
from shared.snapshots import open_store
from shared.telemetry import Meters

folder, job_id, fence, rank, meeting = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=2)
states = []
fresh = loop.TrainingState
loop.TrainingState = lambda *arguments: states.append(fresh(*arguments)) or states[-1]
catalog = Catalog(f"sqlite:///{folder}/catalog.db")
attempt = load_attempt(catalog, job_id, int(fence))
store = open_store(f"file://{folder}/store")
loop.train(attempt, catalog=catalog, store=store, group=Group(int(rank), 2), meters=Meters("training"))
digest = hashlib.sha256()
for value in [*states[0].denoiser.state_dict().values(), *states[0].ema.tensors(1).values()]:
    digest.update(value.numpy().tobytes())
print(json.dumps({"rank": int(rank), "num_images": states[0].num_images, "weights": digest.hexdigest()}))
dist.destroy_process_group()
"""


def train_in_two(attempt: Attempt, folder: Path) -> list[dict[str, object]]:
    """What the two workers ended with."""
    meeting = f"file://{folder / f'meeting-{attempt.run_id}'}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), attempt.job_id, str(attempt.fence), str(rank), meeting],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [json.loads(process.communicate(timeout=200)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.timeout(600)
def test_two_workers_hold_the_same_weights_and_repeat_them(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Their cancel is agreed on as well: the second run is stopped at its first status on both."""
    config = tiny_config(num_workers=2, total_images=160, checkpoint_every=80)
    results = {}
    for name in ("one", "other"):
        attempt = claim_locally(config, local_catalog, name=name)
        first, second = train_in_two(attempt, tmp_path)
        assert first["weights"] == second["weights"]
        with local_catalog.transaction() as tx:
            assert conclude(tx, attempt) is JobState.SUCCEEDED
        results[name] = snapshots_of(local_catalog, local_store, name)
    assert results["one"] == results["other"]

    cancelled = claim_locally(config, local_catalog, name="cancelled")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(cancelled.job_id)
    assert [result["num_images"] for result in train_in_two(cancelled, tmp_path)] == [80, 80]
