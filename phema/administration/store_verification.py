"""`phema store verify`: reads the objects that the catalog names and compares their bytes with what was written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from phema.shared.catalog import Catalog, Run
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.verification import verify

Progress = Callable[[int, int], None]
"""Bytes that are verified, and bytes of all objects."""


@dataclass(frozen=True)
class RecordedObject:
    """An object as its row records it."""

    kind: str
    """snapshot, checkpoint, reconstruction, basis, sample or preview."""
    run: str
    """Name of its run."""
    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DamagedObject:
    """An object that is missing or does not hold the bytes that were written. `problem` is one sentence."""

    kind: str
    run: str
    key: str
    problem: str


@dataclass
class Verified:
    """What was read, and what of it is damaged, in the order of runs."""

    objects: int = 0
    bytes: int = 0
    damaged: list[DamagedObject] = field(default_factory=list)


def verify_store(
    catalog: Catalog, store: ObjectStore, run: str | None = None, on_progress: Progress = lambda done, total: None
) -> Verified:
    """Read every snapshot, checkpoint, reconstruction, basis vector, sample and preview of a run, or of all runs, and
    verify its bytes.

    `run`: name or id. Rows that are removed meanwhile are not damage. `on_progress` is called from several threads,
    one at a time. Raises NotFound, CatalogError and the store's other errors.
    """
    recorded = list(_recorded(catalog, run))
    total, found, lock = sum(each.size for each in recorded), Verified(), threading.Lock()

    def check(each: RecordedObject) -> DamagedObject | None:
        problem = _problem_of(catalog, store, each)
        with lock:
            found.objects += 1
            found.bytes += each.size
            on_progress(found.bytes, total)
        return None if problem is None else DamagedObject(each.kind, each.run, each.key, problem)

    pool = ThreadPoolExecutor(store.reads_in_flight, thread_name_prefix="verify")
    try:
        found.damaged = [damaged for damaged in pool.map(check, recorded) if damaged is not None]
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _problem_of(catalog: Catalog, store: ObjectStore, each: RecordedObject) -> str | None:
    try:
        verify(store, each.key, size=each.size, sha256=each.sha256)
    except CorruptObject as error:
        return str(error)
    except ObjectMissing as error:
        # The row is read again: retention and training delete objects with their rows.
        return str(error) if each in _recorded(catalog, each.run) else None
    return None


def _recorded(catalog: Catalog, run: str | None) -> Iterator[RecordedObject]:
    """Every object of the run, or of all runs, whose hash the catalog has."""
    with catalog.transaction(read_only=True) as tx:
        runs = [tx.runs.get(run)] if run is not None else tx.runs.all()
    for each in runs:
        yield from _objects_of(catalog, each)


def _objects_of(catalog: Catalog, run: Run) -> Iterator[RecordedObject]:
    with catalog.transaction(read_only=True) as tx:
        snapshots, checkpoints = tx.snapshots.list(run.id), tx.checkpoints.all_but_latest(run.id, 0)
        weights, bases = tx.reconstructions.stored(run.id), tx.bases.finished(run.id)
        samples, previews = tx.samples.stored(run.id), tx.previews.latest_results(run.id)
    for snapshot in snapshots:
        yield RecordedObject("snapshot", run.name, snapshot.key, snapshot.size, snapshot.sha256)
    for checkpoint in checkpoints:
        yield RecordedObject("checkpoint", run.name, checkpoint.key, checkpoint.size, checkpoint.sha256)
    for key, size, sha256 in weights:
        yield RecordedObject("reconstruction", run.name, key, size, sha256)
    for basis in bases:
        for vector in basis.vectors or ():
            yield RecordedObject("basis", run.name, vector["key"], vector["size"], vector["sha256"])
    for sample in samples:
        yield RecordedObject("sample", run.name, sample["key"], sample["size"], sample["sha256"])
    for preview in previews:
        yield RecordedObject("preview", run.name, preview["key"], preview["size"], preview["sha256"])
