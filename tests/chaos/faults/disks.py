"""Disks without a free byte. They are small file systems of the storm's own."""

from __future__ import annotations

from tests.chaos.faults.registry import NothingToHit, fault
from tests.chaos.small_disk import SmallDisk
from tests.chaos.storm import Storm

FULL_SECONDS = 6.0


def _fill(storm: Storm, disk: SmallDisk) -> None:
    if not disk.mounted:
        raise NothingToHit  # no small file system can be mounted here
    disk.fill()
    try:
        storm.pause(FULL_SECONDS)
    finally:
        disk.free()


@fault("full disk of the S3 server", "uploads fail and are repeated", weight=3)
def fill_objects(storm: Storm) -> str:
    _fill(storm, storm.cluster.disks["objects"])
    return "s3"


@fault("full disk of PostgreSQL", "transactions fail and are repeated; PostgreSQL may restart", weight=2)
def fill_database(storm: Storm) -> str:
    _fill(storm, storm.cluster.disks["database"])
    return "postgres"


@fault("full folder of temporary files of the Ray node", "checkpoints are encoded in memory", weight=2)
def fill_temporary(storm: Storm) -> str:
    _fill(storm, storm.cluster.disks["temporary"])
    return "TMPDIR of trainings and actors"
