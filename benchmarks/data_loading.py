"""Measure how long training steps wait for data: zips of 64x64 PNG and of 64x64 latents, with and without prefetching.

The wait is that of `Batches.at`, as in the training loop: pictures read from the zip and decoded, labels, noise. A
batch has 64 pictures, one worker's share of 2,048 on 32 GPUs. The step is a pause of the time that EDM2-XS, the fastest
network of the paper, takes for a batch on an A100 (8,265 images/s on 32 of them), because a GPU leaves the CPU free.
Decoded pictures are not kept in memory, as with a large dataset. The page cache is warm.

    python -m benchmarks.data_loading [--json]

Exits with status 1 if steps wait for more than 2 % of the time with prefetching.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import machine, show
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.loop import BATCHES_AHEAD, READERS
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import Prefetcher, open_dataset
from phema.shared.datasets import stored_pictures as stored
from phema.shared.datasets.preparation.dataset_writer import new_dataset
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig

LIMIT = 0.02
BATCH = 64
STEPS = 20
PICTURES = 512
STEP_SECONDS = BATCH / (8265 / 32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    stored.IN_MEMORY_BYTES = 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, write, channels in (("64x64 PNG", _png, 3), ("64x64 latents", _latents, 4)):
            path = Path(folder, f"{channels}.zip")
            with new_dataset(path) as add:
                for i in range(PICTURES):
                    add(*write(i))
            for ahead in (0, BATCHES_AHEAD):
                rows.append({"data": kind, "batches ahead": ahead, **measure(path, channels, ahead)})
    show(machine(), rows, as_json=options.json)
    return 0 if all(row["share waited"] <= LIMIT for row in rows if row["batches ahead"]) else 1


def measure(path: Path, channels: int, ahead: int) -> dict[str, Any]:
    """Images/s that one thread reads, and the share of its time for which the loop waits for data."""
    config = _config(path, channels)
    read = Batches(open_dataset(config.dataset), config, WorkerGroup()).at
    read(0)
    began = time.perf_counter()
    for step in range(4):
        read(step * BATCH)
    speed = 4 * BATCH / (time.perf_counter() - began)
    with Prefetcher(read, BATCH, ahead, READERS, end=STEPS * BATCH) as batches:
        batches.at(0)  # the first batch cannot be prefetched
        before, began = batches.waited_seconds, time.perf_counter()
        for step in range(1, STEPS):
            time.sleep(STEP_SECONDS)
            batches.at(step * BATCH)
        share = (batches.waited_seconds - before) / (time.perf_counter() - began)
    return {"images/s per thread": speed, "share waited": share}


def _config(path: Path, channels: int) -> RunConfig:
    return resolve(
        "edm2-img64-xs",
        {
            "network": {"img_channels": channels, "label_dim": 0},
            "dataset": {"name": "benchmark", "path": str(path), "held_out": 0},
            "batch_size": BATCH,
            "snapshot_every": BATCH,
            "checkpoint_every": BATCH,
            "status_every": BATCH,
            "total_images": STEPS * BATCH,
        },
    )


def _png(number: int) -> tuple[str, bytes]:
    """Smooth colours with noise, which take about as many bytes as a 64x64 photograph."""
    random = np.random.RandomState(number)
    small = Image.fromarray(random.randint(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = np.asarray(small, np.int64) + random.randint(-8, 9, (64, 64, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return f"{number}.png", file.getvalue()


def _latents(number: int) -> tuple[str, bytes]:
    file = io.BytesIO()
    np.save(file, np.abs(np.random.RandomState(number).standard_normal((8, 64, 64))).astype(np.float32))
    return f"{number}.npy", file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
