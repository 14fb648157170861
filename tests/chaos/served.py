"""No reconstruction was made from damaged bytes: each is computed again from the undisturbed run's snapshots."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load

from tests.chaos.cluster import StormFailed
from tests.chaos.reference import Undisturbed
from tests.chaos.storm import Storm

_STORED = """
SELECT reconstructions.id, key, plan, name FROM reconstructions JOIN runs ON runs.id = run_id
WHERE key IS NOT NULL AND name LIKE 'storm-%'
"""
TOLERANCE = 1e-5
"""Largest relative difference in the norm of all weights: float32 results, computed in another order."""


def check_served(storm: Storm, undisturbed: dict[int, Undisturbed]) -> str:
    weights = {number: {time: _flat(file) for time, file in each.files.items()} for number, each in undisturbed.items()}
    store, checked, from_bases = storm.cluster.store(), 0, 0
    rows = storm.watch.ask(_STORED)
    for row_id, key, plan, name in rows or ():
        if any(part["profile"]["kind"] != "power" for part in plan["snapshots"]):
            from_bases += 1
            continue
        own = weights[storm.workload.runs[name]]
        parts = [own[part["num_images"], part["profile"]["sigma_rel"]] for part in plan["snapshots"]]
        wanted = sum(c * part for c, part in zip(plan["coefficients"], parts, strict=True))
        if np.linalg.norm(_flat(store.get(key)) - wanted) > TOLERANCE * np.linalg.norm(wanted):
            raise StormFailed(f"reconstruction {row_id} of {name} differs from that of undisturbed snapshots")
        checked += 1
    bases = f"; {from_bases} from bases were verified by their checksums only" if from_bases else ""
    return f"{checked} reconstructions equal those of undisturbed snapshots{bases}"


def _flat(file: bytes) -> np.ndarray:
    """All tensors of a file as one float64 vector, in the order of their names."""
    tensors = load(file)
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in sorted(tensors)])
