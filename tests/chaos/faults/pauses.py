"""SIGSTOP for longer than a lease, then SIGCONT: the process goes on as if nothing had happened, without its jobs."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil

from tests.chaos.cluster import LEASE_SECONDS, TRAINERS
from tests.chaos.faults.kills import ACTOR, DRIVER
from tests.chaos.faults.registry import NothingToHit, fault
from tests.chaos.storm import Storm

LONGER_THAN_A_LEASE = LEASE_SECONDS + 3.0


def suspend(storm: Storm, victim: psutil.Process, seconds: float) -> None:
    with suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGSTOP)
        try:
            storm.pause(seconds)
        finally:
            victim.send_signal(signal.SIGCONT)


def suspend_one(storm: Storm, *pieces: str) -> str:
    found = storm.cluster.processes(*pieces)
    if not found:
        raise NothingToHit
    victim = storm.random.choice(sorted(found, key=lambda process: process.pid))
    suspend(storm, victim, LONGER_THAN_A_LEASE)
    return f"process {victim.pid}"


@fault("SIGSTOP of a training's process for longer than its lease", "its next heartbeat says that it has lost the job")
def suspend_driver(storm: Storm) -> str:
    return suspend_one(storm, DRIVER, "--device")


@fault("SIGSTOP of an actor for longer than a lease", "its job is kept by the worker's heartbeats")
def suspend_actor(storm: Storm) -> str:
    return suspend_one(storm, ACTOR)


@fault("SIGSTOP of a phema worker for longer than its lease", "its jobs were given away; it can write nothing of them")
def suspend_worker(storm: Storm) -> str:
    name = storm.random.choice(storm.cluster.workers)
    suspend(storm, psutil.Process(storm.cluster.pid(name)), LONGER_THAN_A_LEASE)
    return name


@fault(
    "two trainers at once: SIGSTOP of one until the other has taken over", "fences tell the attempts apart", weight=4
)
def two_trainers(storm: Storm) -> str:
    first, second = storm.random.sample(TRAINERS, 2)
    restarts = storm.cluster.restarts(second)
    victim = psutil.Process(storm.cluster.pid(first))
    with suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGSTOP)
        try:
            # A trainer that starts takes over the leases of all trainings that run.
            psutil.Process(storm.cluster.pid(second)).kill()
            storm.cluster.wait_up(second, restarts)
            storm.pause(LONGER_THAN_A_LEASE)
        finally:
            victim.send_signal(signal.SIGCONT)
    return f"{first} stopped, {second} takes over"


@fault("SIGSTOP of the S3 server for 8 s", "requests wait, or time out and are repeated", weight=2)
def suspend_s3(storm: Storm) -> str:
    suspend(storm, psutil.Process(storm.cluster.pid("s3")), 8.0)
    return "s3"
