"""kill -9 of one process. A supervisor starts services again; attempts of jobs are phema's own business."""

from __future__ import annotations

import psutil

from tests.chaos.cluster import TRAINERS
from tests.chaos.faults.registry import NothingToHit, fault
from tests.chaos.storm import Storm

DRIVER = "phema.services.trainer.control.driver"
ACTOR = "ray::PhemaActor"
TRAIN_WORKER = "RayTrainWorker"


def kill_one(storm: Storm, *pieces: str) -> str:
    """Kill a process whose command line holds `pieces`, and name it."""
    found = storm.cluster.processes(*pieces)
    if not found:
        raise NothingToHit
    victim = storm.random.choice(sorted(found, key=lambda process: process.pid))
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        raise NothingToHit from None
    return f"process {victim.pid}"


def kill_service(storm: Storm, name: str) -> str:
    """Kill a service and wait until it is up again."""
    restarts, pid = storm.cluster.restarts(name), storm.cluster.pid(name)
    psutil.Process(pid).kill()
    storm.cluster.wait_up(name, restarts)
    return name


@fault("kill -9 of a training's process", "another attempt goes on from the last checkpoint", weight=8)
def kill_driver(storm: Storm) -> str:
    return kill_one(storm, DRIVER, "--device")


@fault("kill -9 of one of two training workers", "another attempt goes on from the last checkpoint", slow=True)
def kill_training_worker(storm: Storm) -> str:
    return kill_one(storm, TRAIN_WORKER)


@fault("kill -9 of an actor", "the worker starts another actor; the job is tried again", weight=5)
def kill_actor(storm: Storm) -> str:
    return kill_one(storm, ACTOR)


@fault("kill -9 of an import", "the command is repeated and writes what is missing", weight=2)
def kill_import(storm: Storm) -> str:
    pid = storm.imports.pid
    if pid is None:
        raise NothingToHit
    psutil.Process(pid).kill()
    return f"process {pid}"


@fault("kill -9 of a trainer", "restarted; trainings go on meanwhile, the other trainer takes over", weight=5)
def kill_trainer(storm: Storm) -> str:
    return kill_service(storm, storm.random.choice(TRAINERS))


@fault("kill -9 of a phema worker", "restarted; the leases of its jobs expire, others claim them", weight=5)
def kill_worker(storm: Storm) -> str:
    return kill_service(storm, storm.random.choice(storm.cluster.workers))


@fault("kill -9 of the API", "restarted; clients repeat requests with the same key", weight=4)
def kill_api(storm: Storm) -> str:
    return kill_service(storm, "api")


@fault("kill -9 of the S3 server", "restarted; writers repeat what was not acknowledged", weight=4)
def kill_s3(storm: Storm) -> str:
    return kill_service(storm, "s3")


@fault("kill -9 of PostgreSQL", "restarted; it replays its log, transactions are repeated", weight=4)
def kill_postgres(storm: Storm) -> str:
    return kill_service(storm, "postgres")


@fault("kill -9 of a connection's process in PostgreSQL", "PostgreSQL restarts its processes by itself", weight=2)
def kill_backend(storm: Storm) -> str:
    return kill_one(storm, "postgres: phema phema")


@fault("kill -9 of the Ray head", "restarted; trainings and actors died with it and start again", weight=3, slow=True)
def kill_ray_head(storm: Storm) -> str:
    return kill_service(storm, "ray")


@fault("kill -9 of Ray's control store", "the head ends and is restarted", weight=1, slow=True)
def kill_gcs(storm: Storm) -> str:
    restarts = storm.cluster.restarts("ray")
    target = kill_one(storm, "gcs_server")
    storm.cluster.wait_up("ray", restarts)
    return target
