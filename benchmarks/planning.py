"""Measure what planning a reconstruction costs: seconds, CPU seconds and peak memory of one process.

    python -m benchmarks.planning [--json] [--pairs 24,128,2000]

Plans 31 power profiles of sigma_rel 0.01 to 0.25 at the end of a simulated run with two stored averages (0.05, 0.10) in
float16, with one BLAS thread as in the API, in a new process for each number of snapshot pairs. The weights are random
walks, of which the plan finds 4,096 per snapshot, as in the catalog. `errors` is the smallest and the largest predicted
error. Target: 2,000 pairs in 2 seconds and 300 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from phema.shared.edm2.averaging.power_function import beta, gamma_from_sigma_rel
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

STORED = (0.05, 0.10)
WANTED = tuple(float(sigma_rel) for sigma_rel in np.geomspace(0.01, 0.25, 31))
EVERY = 640
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options.add_argument("--pairs", default="24,128,2000", help="numbers of snapshot pairs")
    options.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    from benchmarks.report import machine, show  # imports torch, whose memory would be counted

    command = [sys.executable, "-m", "benchmarks.planning", "--measure"]
    rows = [
        json.loads(
            subprocess.run([*command, pairs], check=True, capture_output=True, env=os.environ | ONE_THREAD).stdout
        )
        for pairs in chosen.pairs.split(",")
    ]
    show(machine(), rows, as_json=chosen.json)


def measure(pairs: int) -> dict[str, Any]:
    snapshots, probes = simulated_run(pairs)
    started, cpu = time.perf_counter(), time.process_time()
    planned = plan(snapshots, [Profile.power(s) for s in WANTED], probes=probes, update_images=EVERY)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    errors = [output.errors.predicted_error for output in planned.outputs]
    return {
        "pairs": pairs,
        "seconds": seconds,
        "CPU seconds": cpu,
        "peak MB": _peak_bytes() / 1e6,
        "snapshots read": len(planned.snapshots),
        "errors": f"{min(errors):.2g} to {max(errors):.2g}",
    }


def _peak_bytes() -> int:
    """Largest resident memory of this process. `getrusage` would count that of its parent before `exec`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def simulated_run(pairs: int) -> tuple[list[StoredSnapshot], dict[str, bytes]]:
    """Snapshots of a run whose weights are random walks, and their probes."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(PROBE_WEIGHTS)
    averages = dict.fromkeys(STORED, weights)
    snapshots, probes = [], {}
    for time_ in range(EVERY, (pairs + 1) * EVERY, EVERY):
        weights = weights + 0.02 * rng.standard_normal(PROBE_WEIGHTS)
        for sigma_rel in STORED:
            kept = beta(gamma_from_sigma_rel(sigma_rel), time_, EVERY)
            averages[sigma_rel] = kept * averages[sigma_rel] + (1 - kept) * weights
            name = f"{time_}-{sigma_rel}"
            snapshots.append(StoredSnapshot(name, time_, Profile.power(sigma_rel), name, 10**6, name, "float16"))
            probes[name] = averages[sigma_rel].astype(np.float16).astype("<f4").tobytes()
    return snapshots, probes


if __name__ == "__main__":
    main()
