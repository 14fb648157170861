"""Speed of evaluations, with their targets: overhead, two actors, a sweep, more pictures.

A run on the digits is trained briefly, because the speed does not depend on the quality of the weights. Every
evaluation has a seed of its own, so that nothing is found that was drawn before. One torch thread per actor.

- overhead: an evaluation by one actor, over the same pictures and features in a loop without a service;
- two actors over one;
- a sweep of 16 σ_rel, with their reconstructions, over 16 times one evaluation with its reconstruction, alone;
- pictures drawn when an evaluation of 1,000 pictures is repeated with 5,000.

    python -m benchmarks.evaluation [--samples 1000] [--steps 18] [--points 16] [--json]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import machine, show
from phema.client.client import Client
from phema.client.response_models import Evaluation
from phema.local_service.up import running_service

RUN = "speed"
CONFIG = {"total_images": 6_400, "snapshot_every": 640, "checkpoint_every": 6_400, "magnitudes_every": 6_400}
METRICS = ["frechet_digits", "frechet"]
GRID = 4
REPEATS = 3
Row = dict[str, Any]


def main() -> None:
    options = arguments()
    facts = machine() | {"load": f"{os.getloadavg()[0]:.1f} processes at the start"}
    show(facts, list(measured(options)), as_json=options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    recipe = {"num_samples": options.samples, "num_steps": options.steps, "grid": GRID, "metrics": METRICS}
    with tempfile.TemporaryDirectory(prefix="phema-benchmark-") as folder:
        state = Path(folder) / "state"
        with service(state, actors=1) as client:
            client.runs.create(RUN, "digits-tiny", CONFIG)
            client.runs.watch(RUN)
            weights = client.reconstruct(RUN, 0.1)[0]
            warm(client, weights.id, recipe)
            one = median(timed(client, weights.id, recipe, seed=10_000 * (i + 1)) for i in range(REPEATS))
            file = client.download(weights.id, Path(folder) / "weights.safetensors")
        bare = median(bare_seconds(file, options) for _ in range(REPEATS))
        pictures = options.samples + GRID**2
        yield row(f"one actor: {pictures:,} pictures, {options.steps} steps", one, "s", "-")
        yield row("the same pictures and features in a loop without a service", bare, "s", "-")
        yield row("overhead of the evaluation", one / bare - 1, "", "<= 0.10")
        with service(state, actors=2) as client:
            warm(client, weights.id, recipe)
            two = median(timed(client, weights.id, recipe, seed=10_000 * (i + 10)) for i in range(REPEATS))
            yield row("one actor over two, on two cores", one / two, "", ">= 1.7")
            alone = median(with_reconstruction(client, recipe, i) for i in range(REPEATS))
            sigma_rels = [0.03 * (0.25 / 0.03) ** (i / (options.points - 1)) for i in range(options.points)]
            began = time.monotonic()
            client.sweep(RUN, sigma_rels, **recipe, seed=500_000)
            sweep = time.monotonic() - began
            yield row("two actors: one evaluation with its reconstruction", alone, "s", "-")
            yield row(f"two actors: sweep of {options.points} σ_rel", sweep, "s", "-")
            yield row(f"sweep over {options.points} × one", sweep / (options.points * alone), "", "-")
            yield row(f"sweep over {options.points} × one by one actor", sweep / (options.points * one), "", "<= 0.8")
            yield from extended(client, weights.id, recipe)


def extended(client: Client, weights: str, recipe: Row) -> Iterator[Row]:
    first = client.evaluate(weights, **recipe | {"num_samples": 1000, "seed": 700_000})
    before = drawn(client)
    client.evaluate(weights, **recipe | {"num_samples": 5000, "seed": 700_000})
    assert first.figures is not None
    yield row("pictures drawn to extend 1,000 to 5,000", drawn(client) - before, "", "4000")


def drawn(client: Client) -> int:
    """Pictures that all parts have drawn so far, without those of grids."""
    counts = [job.result["num_sampled"] for job in client.jobs.list("draw", "succeeded") if job.result]
    return sum(count for count in counts if count != GRID**2)


class service:
    """A service with so many actors, each with one thread, and a client."""

    def __init__(self, state: Path, *, actors: int) -> None:
        env = {"PHEMA_WORKER_ACTORS": str(actors)}
        self._running = running_service(state, env=env)

    def __enter__(self) -> Client:
        self._client = Client(self._running.__enter__())
        return self._client

    def __exit__(self, *error: Any) -> None:
        self._client.close()
        self._running.__exit__(*error)


def warm(client: Client, weights: str, recipe: Row) -> None:
    """Start the actors, and let them load torch, weights and extractors."""
    for seed in range(2):
        client.evaluate(weights, **recipe | {"num_samples": 512, "seed": 900_000 + 1000 * seed})


def timed(client: Client, weights: str, recipe: Row, *, seed: int) -> float:
    asked = client.evaluate(weights, wait=False, **recipe, seed=seed)
    return seconds_of(client, asked)


def seconds_of(client: Client, asked: Evaluation) -> float:
    """From the request to the end, by the service's clock."""
    job = client.wait(str(asked.job_id), poll_seconds=0.05)
    assert job.finished_at is not None
    assert job.created_at is not None
    return (job.finished_at - job.created_at).total_seconds()


def with_reconstruction(client: Client, recipe: Row, number: int) -> float:
    began = time.monotonic()
    weights = client.reconstruct(RUN, 0.2 + 0.001 * number)[0]
    client.evaluate(weights, **recipe, seed=10_000 * (number + 30))
    return time.monotonic() - began


def bare_seconds(file: Path, options: argparse.Namespace) -> float:
    """In a process of its own, with as many threads as an actor."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--bare", str(file)]
    command += ["--samples", str(options.samples), "--steps", str(options.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def bare(options: argparse.Namespace) -> float:
    """Seconds of sampler and extractors, once everything is loaded."""
    import torch

    from phema.sdk.networks import load
    from phema.shared.datasets import open_dataset
    from phema.shared.edm2.sampling.heun import sigma_steps
    from phema.shared.edm2.sampling.sampler import sample_batches
    from phema.shared.metrics.feature_extraction import load_extractor
    from phema.shared.metrics.scoring import extractors_of
    from phema.shared.recipes.run_config import DatasetConfig

    torch.set_num_threads(1)
    denoiser = load(options.bare)
    dataset = open_dataset(DatasetConfig())
    extractors = [load_extractor(name, dataset=dataset) for name in extractors_of(METRICS)]
    sigmas = sigma_steps(options.steps, 0.002, 80.0, 7.0)

    def draw(seeds: range) -> None:
        for pictures in sample_batches(denoiser, seeds=seeds, sigmas=sigmas, batch_size=256):
            for extractor in extractors:
                extractor(pictures)

    draw(range(128))
    began = time.perf_counter()
    draw(range(options.samples + GRID**2))
    return time.perf_counter() - began


def row(what: str, value: float, unit: str, target: str) -> Row:
    return {"what": what, "measured": float(value), "unit": unit, "target": target}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    if (given := arguments()).bare is not None:
        print(bare(given))
    else:
        main()
