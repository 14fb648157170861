"""Every GPU test, then the benchmarks of training, sampling, averages and reconstruction, on one GPU in 8 minutes.

Needs torch with CUDA, the light installation of phema (`pip install -e .`), pytest and pytest-timeout; neither Ray nor
the packages of the server. Each part has a time limit. A part that fails or takes too long does not stop the others.

    python -m benchmarks.gpu

Exits with status 0 if every part succeeded, 1 if one failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """A command of this Python (after `-m`), and its time limit in seconds."""

    name: str
    command: str
    seconds: int


TESTS = "pytest -q -m gpu --confcutdir=tests/gpu -p no:cacheprovider tests/gpu"
"""Without the fixtures of all other tests, which import Ray, psycopg and boto3."""
PARTS = (
    Part("tests", TESTS, 180),
    Part("training, digits-tiny", "benchmarks.train_step", 30),
    Part("training, XXS", "benchmarks.train_step --preset edm2-img512-xxs --rounds 5", 60),
    Part("training, XXS, compiled", "benchmarks.train_step --preset edm2-img512-xxs --rounds 5 --compile", 90),
    Part("sampling, XXS", "benchmarks.sample --preset edm2-img512-xxs --images 32 --rounds 3", 45),
    Part("averages, S", "benchmarks.ema_update --width 192 --batch 16", 30),
    Part("reconstruction", "benchmarks.reconstruct --stores local --pairs 8 --rounds 2", 40),
)
"""The limits add up to less than 8 minutes."""


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        print(f"No GPU was found: torch {torch.__version__} sees no CUDA device, so there is nothing to run here.")
        return 2
    failed = [part.name for part in PARTS if not _succeeds(part)]
    print(f"failed: {', '.join(failed)}" if failed else "all parts succeeded")
    return 1 if failed else 0


def _succeeds(part: Part) -> bool:
    print(f"== {part.name}", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", *part.command.split()]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=part.seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"{part.name} took longer than {part.seconds} s and was ended", flush=True)
        return False
    print(f"{part.name}: {time.monotonic() - began:.0f} s, exit status {done.returncode}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
