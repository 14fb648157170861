"""`phema runs adopt`: makes a run that was written without a service a run of this one.

The folder has the layout of a service's store. Its objects are copied under their own keys, unless they are in the
service's store already, and their rows are restored from them as `phema db rebuild` restores rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from phema.administration.rebuild import Rebuilt, rebuild
from phema.shared.catalog import Catalog, NotFound
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.files.run_document import RunDocument, put_run, read_run
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import (
    basis_records_prefix,
    run_key,
    run_prefix,
    sha256_of_key,
)
from phema.shared.snapshots.stores.verification import check_recorded

Progress = Callable[[str, float, float], None]
"""Called with what is done (`copying` or `reading`), how much of it, and the whole amount."""
_BLOCK_BYTES = 2**22


class CannotAdopt(ValueError):
    """The service cannot have the run. The message is one sentence."""


@dataclass
class Adopted:
    """What an adoption did."""

    run_id: str
    name: str
    copied: int = 0
    """Number of objects that the service's store lacked."""
    copied_bytes: int = 0
    snapshots: int = 0
    """Number of snapshots that the service did not know."""
    bases: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Why files were left out, by key."""


def adopt(
    catalog: Catalog,
    store: ObjectStore,
    source: ObjectStore,
    described: RunDocument,
    *,
    name: str | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Adopted:
    """Add the run `described` of the store `source` to the catalog and to its `store`.

    The run keeps its id, its configuration and the bytes of its files. `name` replaces its name. Safe to repeat: a
    later call adds what was written since, and one that was killed is continued. Damaged files are left out.

    Raises CannotAdopt, CatalogError and SnapshotError.
    """
    run = described.model_copy(update={"name": _name_in_service(catalog, described, name)})
    try:
        present = read_run(store, run.id)
    except ObjectMissing:
        put_run(store, run.id, run.encode())
    else:
        if present.name != run.name:
            raise CannotAdopt(
                f"run {run.id} is called {present.name} in the service's store, where files never change; leave --name "
                "out"
            )
    adopted = Adopted(run.id, run.name)
    _copy(store, source, run.id, adopted, on_progress)
    found = rebuild(catalog, store, lambda done, total: on_progress("reading", done, total), run_id=run.id)
    _add(adopted, found)
    return adopted


def _name_in_service(catalog: Catalog, run: RunDocument, name: str | None) -> str:
    """`name`, or else the name that the service knows the run by, or else its own. Raises CannotAdopt."""
    with catalog.transaction(read_only=True) as tx:
        known = next(iter(tx.runs.with_ids([run.id])), None)
        if known is not None and name not in (None, known.name):
            raise CannotAdopt(f"run {run.id} is called {known.name} in the service; leave --name out")
        wanted = name or (known.name if known is not None else run.name)
        try:
            named = tx.runs.get(wanted)
        except NotFound:
            return wanted
        if named.id != run.id:
            raise CannotAdopt(f"name {wanted!r} is taken by another run of the service; give --name another one")
        return wanted


def _copy(store: ObjectStore, source: ObjectStore, run_id: str, adopted: Adopted, on_progress: Progress) -> None:
    """Copy what the store lacks. When `source` is the store itself, nothing is lacking."""
    lacking = []
    for prefix in (run_prefix(run_id), basis_records_prefix(run_id)):
        for info in source.list(prefix):
            present = store.head(info.key)
            if info.key != run_key(run_id) and (present is None or present.size != info.size):
                lacking.append(info)
    total = sum(info.size for info in lacking)
    for info in lacking:
        try:
            _copy_object(store, source, info)
        except ObjectMissing:
            continue  # deleted since it was listed
        except CorruptObject as error:
            adopted.skipped[info.key] = str(error)
            continue
        adopted.copied += 1
        adopted.copied_bytes += info.size
        on_progress("copying", adopted.copied_bytes, total)


def _copy_object(store: ObjectStore, source: ObjectStore, info: ObjectInfo) -> None:
    """Copy an object as a whole or not at all. Raises CorruptObject if its bytes are not those that its key names."""
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, info.size)))
    sha256 = hashlib.sha256()
    with store.writer(info.key) as writer:
        for start in range(0, info.size, _BLOCK_BYTES):
            block = buffer[: min(_BLOCK_BYTES, info.size - start)]
            source.read_into(info.key, start, block)
            sha256.update(block)
            writer.write(block)
        if (recorded := sha256_of_key(info.key)) is not None:
            check_recorded(source, info.key, sha256.hexdigest(), recorded)


def _add(adopted: Adopted, found: Rebuilt) -> None:
    if (reason := found.skipped.get(run_key(adopted.run_id))) is not None:
        raise CannotAdopt(f"run {adopted.name} was not adopted: {reason}")
    adopted.snapshots, adopted.bases = found.snapshots, found.bases
    adopted.skipped |= found.skipped
