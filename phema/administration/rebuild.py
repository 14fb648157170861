"""`phema db rebuild`: restores the catalog from the bucket alone.

Every object describes itself: run.json holds the first name and the configuration of a run, records of renames hold its
later names, every weights file holds its time, profile and lineage, every checkpoint its run and time, the record of a
promoted model its name and figures. Evaluations and samples are stored in the catalog only; requesting one again
computes it again. Existing rows are not changed, so a rebuild can be repeated or interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from phema.administration.basis_files import Vector, add_bases
from phema.administration.deleted_runs import list_leftovers
from phema.administration.model_rebuild import add_model
from phema.shared.catalog import Catalog, JobKind, NameTaken, NotFound, Snapshot, Transaction
from phema.shared.recipes.run_config import RunConfig, hash_of_document
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.files.header import SnapshotMetadata, read_header
from phema.shared.snapshots.files.run_renames import latest_name
from phema.shared.snapshots.files.weight_probe import ProbeCollector
from phema.shared.snapshots.planning.stored_plan import SnapshotReference, StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import MODELS, rename_prefix, run_key, run_prefix, sha256_of_key
from phema.shared.snapshots.stores.verification import digest
from phema.shared.validation_sentences import sentence

Progress = Callable[[int, int], None]
"""Objects read so far, and all objects."""


@dataclass
class Rebuilt:
    """Numbers of rows written, and why each skipped object was skipped, by key."""

    runs: int = 0
    snapshots: int = 0
    checkpoints: int = 0
    reconstructions: int = 0
    bases: int = 0
    models: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


SnapshotFile = tuple[ObjectInfo, SnapshotMetadata, bytes]
"""The object, its metadata and a sample of its weights."""


@dataclass
class _Found:
    """The objects of one run, after they were read and verified."""

    snapshots: list[SnapshotFile] = field(default_factory=list)
    reconstructions: list[tuple[ObjectInfo, SnapshotMetadata]] = field(default_factory=list)
    checkpoints: list[tuple[ObjectInfo, int]] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        times = [m.num_images for _, m, _ in self.snapshots] + [time for _, time in self.checkpoints]
        return max([*times, *(m.num_images for _, m in self.vectors)], default=0)

    @property
    def length(self) -> int:
        """The longest `total_images` under which a snapshot was written; 0 without snapshots."""
        return max((int((m.config or {}).get("total_images") or 0) for _, m, _ in self.snapshots), default=0)


def rebuild(
    catalog: Catalog,
    store: ObjectStore,
    on_progress: Progress = lambda done, total: None,
    *,
    run_id: str | None = None,
) -> Rebuilt:
    """Read every object of the store once, verify its checksum, and write the rows that are missing, run by run.

    `run_id`: only the objects of this run, without promoted models. A run appears with all its rows in one transaction.
    Raises CatalogError and SnapshotError.
    """
    gone = list_leftovers(catalog, store, only=run_id)
    by_run: dict[str, list[ObjectInfo]] = {}
    for info in store.list("runs/" if run_id is None else run_prefix(run_id)):
        if (of := info.key.split("/")[1]) not in gone:
            by_run.setdefault(of, []).append(info)
    records = list(store.list(MODELS)) if run_id is None else []
    total, done, rebuilt = sum(map(len, by_run.values())) + len(records), 0, Rebuilt()
    for found_id, objects in by_run.items():
        found = _Found()
        for info in objects:
            try:
                _read(store, found_id, info, found)
            except ObjectMissing:
                pass  # deleted since it was listed
            except (CorruptObject, ValueError) as error:
                rebuilt.skipped[info.key] = str(error)
            done += 1
            on_progress(done, total)
        try:
            _write_run(catalog, store, found_id, found, rebuilt)
        except (CorruptObject, ObjectMissing, NameTaken, ValueError) as error:
            rebuilt.skipped[run_key(found_id)] = str(error)
    for info in records:
        try:
            rebuilt.models += add_model(catalog, store, info)
        except (CorruptObject, ObjectMissing) as error:
            rebuilt.skipped[info.key] = str(error)
        done += 1
        on_progress(done, total)
    return rebuilt


def _read(store: ObjectStore, run_id: str, info: ObjectInfo, found: _Found) -> None:
    if info.key == run_key(run_id) or info.key.startswith(rename_prefix(run_id)):
        return
    if info.key.endswith(".pt"):
        data = store.get(info.key)
        whole = _verified(ObjectInfo(info.key, len(data), hashlib.sha256(data).hexdigest()))
        found.checkpoints.append((whole, _checkpoint_time(data, run_id)))
        return
    header = read_header(store, info.key)
    metadata = header.metadata
    if metadata is None or metadata.run_id != run_id:
        raise CorruptObject(f"object {info.key} is not a weights file of {run_id}")
    collector = ProbeCollector(header)
    whole = _verified(digest(store, info.key, on_block=collector.add_block))
    if metadata.kind == "reconstruction":
        found.reconstructions.append((whole, metadata))
    elif metadata.kind == "basis":
        found.vectors.append((whole, metadata))
    else:
        found.snapshots.append((whole, metadata, collector.probe()))


def _verified(read: ObjectInfo) -> ObjectInfo:
    wanted = sha256_of_key(read.key)
    if wanted is not None and read.sha256 != wanted:
        raise CorruptObject(f"object {read.key} has SHA-256 {read.sha256}, {wanted} was written")
    return read


def _checkpoint_time(data: bytes, run_id: str) -> int:
    checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if checkpoint.get("run_id") != run_id:
        raise CorruptObject(f"the checkpoint belongs to {checkpoint.get('run_id')!r}, not to {run_id}")
    return int(checkpoint["state"]["num_images"])


def _write_run(catalog: Catalog, store: ObjectStore, run_id: str, found: _Found, rebuilt: Rebuilt) -> None:
    described = json.loads(store.get(run_key(run_id)))
    with catalog.transaction(read_only=True) as tx:
        listed = tx.deletions.keys()
    if (name := latest_name(store, run_id, leave_out=listed)) is not None:
        described["name"] = name
    while not _write_found(catalog, described, run_id, found, _look(catalog, store, run_id, found), rebuilt):
        pass  # somebody restored the run or began to delete snapshots of it meanwhile


@dataclass(frozen=True)
class _Look:
    """What was known of a run before its rows are written."""

    exists: bool
    retention: str | None
    """Its newest retention job."""
    lacking: list[SnapshotFile]
    """The snapshots that have no row and whose objects still exist."""


def _look(catalog: Catalog, store: ObjectStore, run_id: str, found: _Found) -> _Look:
    """Retention may have deleted objects, with their rows, since they were read.

    The store is asked outside of the transaction that writes, since others would wait for it.
    """
    with catalog.transaction(read_only=True) as tx:
        try:
            tx.runs.get(run_id)
        except NotFound:
            return _Look(False, None, found.snapshots)
        known = {row.key for row in (*tx.snapshots.list(run_id), *tx.snapshots.retired(run_id))}
        retention = tx.jobs.latest(JobKind.RETAIN, run_id)
    lacking = [s for s in found.snapshots if s[0].key not in known and store.head(s[0].key) is not None]
    return _Look(True, retention, lacking)


def _write_found(
    catalog: Catalog, described: dict[str, Any], run_id: str, found: _Found, look: _Look, rebuilt: Rebuilt
) -> bool:
    """False, with nothing written, when the look is out of date."""
    with catalog.transaction() as tx:
        listed = tx.deletions.keys()
        _leave_out(found, listed)
        created = _restore(tx, run_id, described, found)
        if not created:
            tx.runs.lock(run_id)
            if not look.exists or tx.jobs.latest(JobKind.RETAIN, run_id) != look.retention:
                return False
            for info, _, probe in found.snapshots:
                tx.snapshots.fill_probe(info.key, probe)
        snapshots = sum(_add_snapshot(tx, *snapshot) for snapshot in look.lacking if snapshot[0].key not in listed)
        if snapshots and not created and "origin" in described:
            tx.external_runs.seen(run_id, found.num_images)
        checkpoints = sum(_add_checkpoint(tx, run_id, info, time) for info, time in found.checkpoints)
        bases = add_bases(tx, run_id, found.vectors, rebuilt.skipped)
        reconstructions = _add_reconstructions(tx, run_id, found.reconstructions, rebuilt.skipped)
    # Counted once committed.
    rebuilt.bases += bases
    rebuilt.runs += created
    rebuilt.snapshots += snapshots
    rebuilt.checkpoints += checkpoints
    rebuilt.reconstructions += reconstructions
    return True


def _leave_out(found: _Found, listed: set[str]) -> None:
    """Drop the objects that are listed for deletion: a job may still name them, or they are deleted soon."""
    found.snapshots = [each for each in found.snapshots if each[0].key not in listed]
    found.checkpoints = [each for each in found.checkpoints if each[0].key not in listed]
    found.reconstructions = [each for each in found.reconstructions if each[0].key not in listed]
    found.vectors = [each for each in found.vectors if each[0].key not in listed]


def _restore(tx: Transaction, run_id: str, described: dict[str, Any], found: _Found) -> bool:
    """Add the run's row; False if it exists. A run of another training loop has an origin and any configuration."""
    if "origin" in described:
        own = {name: described[name] for name in ("name", "origin", "config", "total_images")}
        return tx.external_runs.restore(run_id, **own, num_images=found.num_images)
    # As recorded, so that the hash is the one that the run had.
    document = described["config"]
    if found.length > document.get("total_images", found.length):
        document = {**document, "total_images": found.length}  # `run.json` is not rewritten when a run is extended
    config = RunConfig.model_validate(document)
    return tx.runs.restore(
        run_id,
        name=described["name"],
        config=document,
        config_hash=hash_of_document(document),
        total_images=config.total_images,
        num_images=min(found.num_images, config.total_images),
        parent=described.get("parent"),
    )


def _add_snapshot(tx: Transaction, info: ObjectInfo, metadata: SnapshotMetadata, probe: bytes) -> bool:
    return tx.snapshots.add(
        run_id=metadata.run_id,
        num_images=metadata.num_images,
        profile=metadata.profile.model_dump(mode="json"),
        dtype=metadata.dtype,
        key=info.key,
        size=info.size,
        sha256=str(info.sha256),
        probe=probe,
    )[1]


def _add_checkpoint(tx: Transaction, run_id: str, info: ObjectInfo, num_images: int) -> bool:
    known = {c.num_images for c in tx.checkpoints.all_but_latest(run_id, 0)}
    tx.checkpoints.add(run_id=run_id, num_images=num_images, key=info.key, size=info.size, sha256=str(info.sha256))
    return num_images not in known


def _add_reconstructions(
    tx: Transaction, run_id: str, found: list[tuple[ObjectInfo, SnapshotMetadata]], skipped: dict[str, str]
) -> int:
    """Add rows that equal requests will find, and return how many are new. Files without a lineage go to `skipped`."""
    snapshots = {snapshot.sha256: snapshot for snapshot in tx.snapshots.list(run_id)}
    vectors = {str(v["sha256"]): basis.id for basis in tx.bases.finished(run_id) for v in basis.vectors or ()}
    added = 0
    # Also by key: the content key of a request does not find rows of earlier versions.
    known = tx.reconstructions.keys(run_id)
    for info, metadata in found:
        if info.key in known:
            continue
        try:
            plan = _plan(metadata.lineage or {}, snapshots, vectors)
        except ValidationError as error:
            problem = sentence(error.errors(include_url=False)[0], "lineage")
            skipped[info.key] = f"object {info.key} does not say what it was made of: {problem}"
        else:
            added += _add_reconstruction(tx, info, metadata, plan)
    return added


def _plan(lineage: Mapping[str, Any], snapshots: Mapping[str, Snapshot], vectors: Mapping[str, str]) -> StoredPlan:
    """The row's plan, from the lineage of its file. A snapshot that retention has deleted since has no id.

    `snapshots`: those of the run, by SHA-256; `vectors`: ids of bases, by the SHA-256 of their vectors. Raises
    ValidationError for a malformed lineage.
    """
    recorded = StoredPlan.from_lineage(lineage)
    references = tuple(_reference(entry, snapshots.get(entry.sha256)) for entry in recorded.snapshots)
    # Bases have new ids after a rebuild. The id of a basis that is gone is left out.
    basis_id = None if recorded.basis_id is None or not references else vectors.get(references[0].sha256)
    return recorded.model_copy(update={"snapshots": references, "basis_id": basis_id})


def _reference(recorded: SnapshotReference, row: Snapshot | None) -> SnapshotReference:
    if row is None:
        return recorded.model_copy(update={"id": None, "dtype": None})
    return SnapshotReference(
        id=row.id,
        num_images=row.num_images,
        profile=Profile.model_validate(row.profile),
        key=row.key,
        size=row.size,
        sha256=row.sha256,
        dtype=row.dtype,
    )


def _add_reconstruction(tx: Transaction, info: ObjectInfo, metadata: SnapshotMetadata, plan: StoredPlan) -> bool:
    row, _ = tx.reconstructions.find_or_create(
        run_id=metadata.run_id,
        num_images=metadata.num_images,
        profile=metadata.profile.model_dump(mode="json"),
        dtype=metadata.dtype,
        plan=plan.to_json(),
    )
    # A job that made the weights is responsible for its row and its file.
    if row.key is not None or row.job_id is not None:
        return False
    tx.reconstructions.complete(row.id, info.key, info.size, str(info.sha256))
    return True
