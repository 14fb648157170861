"""Runs that phema does not train: their users open them, register snapshots that are in the store, and end them."""

from __future__ import annotations

from phema.services.api.external_runs.schemas import ExternalRunOpen, SnapshotRegister
from phema.services.api.http.problems import BeingDeleted, Invalid, NameTaken, NotOpen
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.services.api.snapshots.schemas import Snapshot
from phema.services.api.snapshots.service import to_snapshot
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction
from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.files.header import Header, read_header
from phema.shared.snapshots.files.run_document import RunDocument, put_run
from phema.shared.snapshots.files.tensor_compatibility import TensorLayout, first_difference, layouts_of
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import snapshot_key
from phema.shared.snapshots.stores.verification import digest


def open_run(tx: Transaction, body: ExternalRunOpen) -> tuple[catalog.Run, bool]:
    """The run, and whether it is new. Raises NameTaken, Invalid."""
    try:
        row, created = tx.external_runs.open(
            body.name,
            origin=body.origin,
            config=body.config,
            total_images=body.total_images,
        )
    except catalog.NameTaken as error:
        raise NameTaken(
            f"name {body.name!r} is taken by another run, or by this one with another origin or config; choose one "
            "that is free, or give the same config to go on with that run"
        ) from error
    known = row.job.payload.get("total_images")
    if not created and body.total_images not in (None, known):
        was = "opened without one" if known is None else f"opened with {known}"
        raise Invalid.of(
            "total_images",
            f"total_images {body.total_images} cannot be given to run {row.name}, which was {was}; leave it out to go "
            "on with that run",
        )
    return row, created


def describe(store: ObjectStore, run: catalog.Run) -> None:
    """Write the run's description to the store, from which a lost catalog can be rebuilt."""
    document = RunDocument(
        id=run.id,
        name=run.name,
        origin=run.origin,
        total_images=run.job.payload.get("total_images"),
        config=run.config,
    )
    put_run(store, run.id, document.encode())


def open_for_snapshots(tx: Transaction, run: str) -> catalog.Run:
    """Raises catalog.NotFound, NotOpen."""
    row = tx.runs.get(run)
    if row.origin == "trained":
        raise NotOpen(f"run {row.name} is trained by phema, which registers its snapshots itself")
    if row.state is not JobState.RUNNING:
        raise NotOpen(f"run {row.name} has {row.state} and takes no more snapshots; resume it to open it again")
    return row


def registered(tx: Transaction, run: catalog.Run, body: SnapshotRegister) -> Snapshot | None:
    """The registered snapshot of this time and profile, if any."""
    row = tx.snapshots.find(run.id, body.num_images, body.profile.key)
    return None if row is None else to_snapshot(row)


def latest_retention(tx: Transaction, run: catalog.Run, body: SnapshotRegister) -> str | None:
    """The run's newest retention job. Until there is another, the object of `body` is not deleted.

    Raises BeingDeleted when retention is deleting an earlier snapshot of this time and profile.
    """
    for row in tx.snapshots.retired(run.id):
        if (row.num_images, row.profile_key) == (body.num_images, body.profile.key):
            raise BeingDeleted(
                f"the snapshot of {body.num_images} images and profile {body.profile.label} is being deleted by "
                "retention; try again when that has ended"
            )
    return tx.jobs.latest(JobKind.RETAIN, run.id)


def check_object(
    store: ObjectStore, run: catalog.Run, body: SnapshotRegister, like: catalog.Snapshot | None = None
) -> None:
    """Law 1: check that the object is complete, matches the request, and has the tensors of `like`, the run's latest.

    Reads the object's header, and the whole object when the store keeps no hashes. Raises Invalid.
    """
    try:
        weighting(body.profile, body.num_images)
    except WeightingError as error:
        raise Invalid.of("profile", f"profile cannot be one of {body.num_images} images: {error}") from error
    wanted = snapshot_key(run.id, num_images=body.num_images, label=body.profile.label, sha256=body.sha256)
    if body.key != wanted:
        raise Invalid.of("key", f"key {body.key} must be {wanted}")
    try:
        info = store.head(body.key)
        header = read_header(store, body.key, size=body.size)
    except ObjectMissing as error:
        raise Invalid.of(
            "key", f"key {body.key} is not in the service's store ({store.url}); upload it there first"
        ) from error
    except CorruptObject as error:
        raise Invalid.of("key", f"key {body.key}: {error}") from error
    found = header.metadata
    if found is None or found.kind != "snapshot":
        raise Invalid.of("key", f"key {body.key} is a safetensors file that does not say which snapshot it is")
    said = {
        "run": (run.id, found.run_id),
        "config_hash": (run.config_hash, found.config_hash),
        "num_images": (body.num_images, found.num_images),
        "profile": (body.profile.key, found.profile.key),
        "dtype": (body.dtype, found.dtype),
    }
    for field, (given, stored) in said.items():
        if given != stored:
            raise Invalid.of(field, f"{field} {given} is not what the file at {body.key} says: {stored}")
    if like is not None:
        _check_same(store, body.key, header, like)
    found_sha256 = digest(store, body.key).sha256 if info is None or info.sha256 is None else info.sha256
    if found_sha256 != body.sha256:
        raise Invalid.of("sha256", f"sha256 {body.sha256} is not that of the object, {found_sha256}")


def _check_same(store: ObjectStore, key: str, header: Header, like: catalog.Snapshot) -> None:
    """Compare the tensors with those of another snapshot of the run. Raises Invalid."""
    try:
        other = read_header(store, like.key)
    except ObjectMissing:
        return  # retention has deleted it since
    if (found := first_difference(_layouts_of(header), _layouts_of(other))) is not None:
        raise Invalid.of(
            "key",
            f"key {key} has tensor {found.name} {found.found}; in the run's snapshot at {like.num_images} images it is "
            f"{found.expected}",
        )


def _layouts_of(header: Header) -> dict[str, TensorLayout]:
    return layouts_of(header.tensors, header.metadata.buffers if header.metadata is not None else ())


def register(
    tx: Transaction, run_id: str, body: SnapshotRegister, retention: str | None
) -> tuple[Snapshot, bool] | None:
    """(the snapshot, whether it is new). None if retention has begun since `latest_retention` was read.

    Raises NotOpen, BeingDeleted, Invalid.
    """
    tx.runs.lock(run_id)
    open_for_snapshots(tx, run_id)
    if tx.jobs.latest(JobKind.RETAIN, run_id) != retention:
        return None
    row, created = tx.snapshots.add(
        run_id=run_id,
        num_images=body.num_images,
        profile=body.profile.model_dump(mode="json"),
        dtype=body.dtype,
        key=body.key,
        size=body.size,
        sha256=body.sha256,
        probe=body.probe_bytes,
    )
    tx.external_runs.seen(run_id, body.num_images)
    return to_snapshot(row), created


def heartbeat(tx: Transaction, run: str) -> Run:
    """Raises catalog.NotFound, NotOpen."""
    row = open_for_snapshots(tx, run)
    tx.external_runs.wrote(row.id)
    return to_run(tx.runs.get(row.id))


def finish(tx: Transaction, run: str) -> Run:
    """Raises catalog.NotFound, NotOpen."""
    row = tx.runs.get(run)
    if row.origin == "trained":
        raise NotOpen(f"run {row.name} is trained by phema, which ends it itself; cancel it to stop it")
    row = tx.external_runs.finish(row.id)
    if row.state is not JobState.SUCCEEDED:
        raise NotOpen(f"run {row.name} has {row.state}; resume it to open it again")
    return to_run(row)
