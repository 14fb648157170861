"""Measure the time for which a snapshot stalls the training loop, relative to copying its weights.

A round times a plain copy of the run's averages, then `Archive.keep` at a snapshot time, as the loop calls it.
Encoding, hashing, upload and the row follow in the background. Each round waits for them, so that rounds do not affect
each other. The bound is 1, the time of the copy, within the noise of the measurement (10 %).

    python -m benchmarks.snapshot_stall [--json]

Exits with status 1 if the bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from phema.services.trainer.local_training import claim_locally
from phema.services.trainer.training.checkpoint import copy_to_cpu
from phema.services.trainer.training.snapshot_writer import SnapshotWriter
from phema.services.trainer.training.training_state import TrainingState
from phema.shared.catalog import Catalog
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots import open_store
from phema.shared.telemetry import Meters

LIMIT = 1.1
WARM_UP = 2


@dataclass(frozen=True)
class Figures:
    """Medians over the rounds; `ratio` is stall over copy."""

    parameters: int
    mib: float
    copy_seconds: float
    stall_seconds: float
    background_seconds: float
    ratio: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--channels", type=int, default=64, help="model channels of the network; XXS has 64")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.channels, options.rounds)
    setting = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
    passed = figures.ratio <= LIMIT
    if options.json:
        print(json.dumps({**setting, **asdict(figures), "limit": LIMIT, "passed": passed}))
    else:
        for name, value in {**setting, **asdict(figures), "limit": LIMIT, "passed": passed}.items():
            print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return 0 if passed else 1


def measure(folder: Path, channels: int, rounds: int) -> Figures:
    config = resolve(
        "edm2-img64-xs",
        {
            "network": {"model_channels": channels, "label_dim": 10},
            "batch_size": 1,
            "snapshot_every": 1,
            "checkpoint_every": 10**6,
            "status_every": 10**6,
            "total_images": 10**6,
        },
    )
    torch.set_num_threads(1)
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    store = open_store((folder / "store").as_uri())
    attempt = claim_locally(config, catalog)
    state = TrainingState(config, torch.device("cpu"))
    copies, stalls, backgrounds = [], [], []
    for _ in range(WARM_UP + rounds):
        state.num_images += 1
        started = time.perf_counter()
        plain: Any = [copy_to_cpu(state.ema.tensors(index)) for index in range(len(config.ema_sigma_rels))]
        copies.append(time.perf_counter() - started)
        del plain
        with SnapshotWriter(attempt, catalog=catalog, store=store, meters=Meters("training")) as writer:
            started = time.perf_counter()
            writer.write_due(state)
            stalls.append(time.perf_counter() - started)
            started = time.perf_counter()
        backgrounds.append(time.perf_counter() - started)
        for info in list(store.list()):
            store.delete(info.key)
    catalog.close()
    parameters = sum(p.numel() for p in state.denoiser.parameters())
    middle = [statistics.median(seconds[WARM_UP:]) for seconds in (copies, stalls, backgrounds)]
    return Figures(
        parameters, len(config.ema_sigma_rels) * parameters * 4 / 2**20, *middle, ratio=middle[1] / middle[0]
    )


if __name__ == "__main__":
    sys.exit(main())
