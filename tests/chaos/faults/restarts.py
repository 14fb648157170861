"""Planned restarts, as of an upgrade."""

from __future__ import annotations

import psutil

from tests.chaos.cluster import TRAINERS
from tests.chaos.faults.registry import fault
from tests.chaos.storm import Storm


@fault("rolling restart of all services", "each ends in its grace time, and goes on after its start", weight=1)
def rolling_restart(storm: Storm) -> str:
    names = ("api", *TRAINERS, *storm.cluster.workers)
    for name in names:
        restarts = storm.cluster.restarts(name)
        psutil.Process(storm.cluster.pid(name)).terminate()
        storm.cluster.wait_up(name, restarts)
    return ", ".join(names)
