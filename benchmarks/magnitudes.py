"""Measure the time for measuring magnitudes and for drawing the noise of each picture from its own seed.

Both alternate with steps of the same training, so that a busy machine slows down all of them. Magnitudes are measured
once per `magnitudes_every` images, on one worker while the others wait. Noise is drawn in every step; in a real run,
other threads draw it ahead of the step. Both are shares of the
time of training; the bound is 2 % each.

digits-tiny is measured as it is trained. The shape of S represents the paper's training: 32 workers with 64 pictures
each.

    python -m benchmarks.magnitudes [--json]

Exits with status 1 if the bound is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.report import machine, show
from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.measurements.magnitudes import measure_magnitudes
from phema.services.trainer.training.picture_noise import picture_noise
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.edm2.device import prepare_device
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig

LIMIT = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="model channels of the S shape; S has 192 (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="pictures per step of the S shape (%(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_device(device)
    found = [
        *rows("digits-tiny", resolve("digits-tiny"), device, options.rounds, images_per_step=64),
        *rows(f"S's shape, {options.width} channels", like_s(options), device, options.rounds, images_per_step=2048),
    ]
    show(machine(device.type), found, as_json=options.json)
    return 0 if all(row["passed"] for row in found) else 1


def like_s(options: argparse.Namespace) -> RunConfig:
    """One worker's part of the S preset's step at reduced width; heads shrink with it."""
    network = {"model_channels": options.width, "channels_per_head": min(64, options.width)}
    batch = options.batch
    clock = dict.fromkeys(("total_images", "snapshot_every", "checkpoint_every", "status_every"), 2**17 * batch)
    return resolve("edm2-img512-s", {"network": network, "batch_size": batch, "precision": "float32", **clock})


def rows(
    name: str, config: RunConfig, device: torch.device, rounds: int, *, images_per_step: int
) -> list[dict[str, object]]:
    """Shares of the time of a training with `images_per_step` images per step.

    A worker's part of a step is timed with `config.batch_size` pictures. It is assumed that measuring
    magnitudes takes as many such parts for any number of pictures.
    """
    network, count = config.network, config.batch_size
    state, group = TrainingState(config, device), WorkerGroup(device=device)
    shape = (network.img_channels, network.img_resolution, network.img_resolution)

    def noise() -> tuple[torch.Tensor, torch.Tensor]:
        return picture_noise(0, np.arange(count), shape, p_mean=config.p_mean, p_std=config.p_std)

    sigma, drawn = noise()
    labels = torch.eye(network.label_dim)[torch.arange(count) % network.label_dim]
    batch = Batch(0.5 * torch.randn(count, *shape), labels, sigma, drawn).to(device)
    step, measured, noised = timed_in_turns(
        [lambda: train_step(state, batch, config, group), lambda: measure_magnitudes(state, batch), noise],
        device,
        rounds,
    )
    steps_between = config.magnitudes_every / images_per_step
    magnitudes_row = f"magnitudes, every {config.magnitudes_every:,} images of {images_per_step} a step"
    shares = {magnitudes_row: measured / step / steps_between, "noise, every step": noised / step}
    seconds = dict(zip(shares, (measured, noised), strict=True))
    return [
        {
            "network": name,
            "batch": count,
            "what": what,
            "step_ms": 1e3 * step,
            "ms": 1e3 * seconds[what],
            "share": share,
            "limit": LIMIT,
            "passed": share <= LIMIT,
        }
        for what, share in shares.items()
    ]


def timed_in_turns(actions: list[Callable[[], object]], device: torch.device, rounds: int) -> list[float]:
    """Median seconds of each action."""
    seconds: list[list[float]] = [[] for _ in actions]
    for turn in range(rounds + 2):
        for action, times in zip(actions, seconds, strict=True):
            began = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= 2:  # after kernels are chosen
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    sys.exit(main())
