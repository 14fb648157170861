"""A byte of a stored snapshot changes on the S3 server's disk."""

from __future__ import annotations

from tests.chaos.faults.registry import NothingToHit, fault
from tests.chaos.storm import Storm

MOST = 2
"""Damaged snapshots of one storm: reconstructions that need one of them fail until it is repaired."""


@fault(
    "a byte flipped in a stored snapshot", "named by verify, rebuild and the jobs that read it; not served", weight=2
)
def flip(storm: Storm) -> str:
    if len(storm.damaged) >= MOST:
        raise NothingToHit
    requests = storm.workload.requests
    runs = [run for run in storm.workload.known_runs() if run["num_images"] > 0]
    if not runs:
        raise NothingToHit
    run = storm.random.choice(runs)["name"]
    rows = requests.get(f"/v1/runs/{run}/snapshots", limit=100)["items"]
    if not rows:
        raise NothingToHit
    victim = storm.random.choice(rows)
    # Otherwise retention may delete it before anybody reads it.
    if requests.post("pin", f"/v1/runs/{run}/pins", {"snapshot_ids": [victim["id"]], "pinned": True}) is None:
        raise NothingToHit
    key = storm.key_of(victim["id"])
    if key is None or key in storm.damaged:
        raise NothingToHit
    storm.damaged.append(key)
    storm.flip_byte(key)
    return key.rsplit("/", 1)[-1]
