"""Cancels, and kills at the moments that other queues got wrong."""

from __future__ import annotations

import time

import psutil

from tests.chaos.cluster import StormFailed
from tests.chaos.faults.kills import DRIVER
from tests.chaos.faults.registry import NothingToHit, fault
from tests.chaos.storm import Storm
from tests.chaos.workload import TERMINAL

LOOK_SECONDS = 15.0
STOP_SECONDS = 120.0
"""In which the processes of a cancelled training must have ended on a busy machine. The trainer ends one that does not
obey after 30 s."""


@fault("cancel of a training, then resume", "it stops after a checkpoint; nothing of it works on", weight=3)
def cancel_training(storm: Storm) -> str:
    requests = storm.workload.requests
    running = [run for run in storm.workload.known_runs() if run["state"] in ("starting", "running")]
    if not running:
        raise NothingToHit
    name, job = (chosen := storm.random.choice(running))["name"], chosen["job"]["id"]
    requests.post("cancel", f"/v1/runs/{name}/cancel")

    def ended() -> bool:
        run = requests.get(f"/v1/runs/{name}")
        return run is not None and run["state"] in TERMINAL

    storm.wait_for(ended, f"the end of the cancelled run {name}")
    began = time.monotonic()
    while left := storm.cluster.processes(DRIVER, job):
        if time.monotonic() - began > STOP_SECONDS:
            raise StormFailed(f"run {name} is cancelled, and processes {[found.pid for found in left]} still train it")
        storm.pause(0.2)
    requests.post("train", f"/v1/runs/{name}/resume")
    return name


@fault("kill -9 of all phema workers between two steps of a job", "another worker does the next step", weight=3)
def kill_between_phases(storm: Storm) -> str:
    deadline = time.monotonic() + LOOK_SECONDS
    while not storm.watch.between_phases():
        if time.monotonic() > deadline:
            raise NothingToHit
        storm.pause(0.05)
    before = {name: storm.cluster.restarts(name) for name in storm.cluster.workers}
    for name in before:
        psutil.Process(storm.cluster.pid(name)).kill()
    for name, restarts in before.items():
        storm.cluster.wait_up(name, restarts)
    return ", ".join(before)
