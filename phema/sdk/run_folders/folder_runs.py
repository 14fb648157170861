"""The run that a folder or bucket holds: which one it is, and how a writer opens it. Torch-free.

A folder of `phema.SnapshotWriter` is a store like that of a service, with one run in it: `runs/RUN_ID/run.json` and
`runs/RUN_ID/snapshots/`. A service can therefore adopt it without a change. `folder.json` names the run. It is written
first, in one atomic step, so that two processes that open an empty folder at once find the same run.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from phema.errors import InvalidArgument, PhemaError
from phema.extras import missing_packages
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import CorruptObject, ObjectExists, ObjectMissing
from phema.shared.snapshots.files.run_document import RunDocument, read_run, stored_runs
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.locations import Location, last_part, location_url
from phema.shared.snapshots.stores.object_keys import FOLDER_RUN, run_key
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.wiring import s3_from

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_RUN_ID = re.compile(r"run-[0-9a-f]+")
_MOST_LISTED = 10
"""Number of runs that an error names."""


class NoRun(InvalidArgument):
    """The folder or bucket holds no run."""


def store_at(location: Location) -> ObjectStore:
    """The store at a path or URL. S3 uses the `PHEMA_S3_*` settings. Makes no folder.

    Raises InvalidArgument, MissingPackages.
    """
    try:
        return open_store(location_url(location), s3=s3_from(Settings()))
    except ValueError as error:
        raise InvalidArgument(
            f"{location} is no place for snapshots: give a path, file:///folder or s3://bucket/prefix"
        ) from error
    except ModuleNotFoundError as error:
        raise missing_packages(error) or error from error


def find_run(store: ObjectStore, location: Location, wanted: str | None = None) -> RunDocument:
    """The run with the name or id `wanted`, or else the only run of the store.

    Raises InvalidArgument when there is none or several, and SnapshotError.
    """
    named = _named_run(store)
    if named is not None and wanted is None:
        try:
            return read_run(store, named)
        except ObjectMissing as error:
            raise NoRun(f"{location} holds no snapshots yet: its writer was stopped while it began") from error
    documents = [read_run(store, run_id) for run_id in stored_runs(store)]
    found = [run for run in documents if wanted is None or wanted in (run.id, run.name)]
    if len(found) == 1:
        return found[0]
    if not documents:
        raise NoRun(
            f"{location} holds no snapshots of phema: no runs/RUN_ID/run.json; phema.SnapshotWriter({str(location)!r}) "
            "writes some"
        )
    names = ", ".join(sorted(run.name for run in documents)[:_MOST_LISTED])
    if wanted is not None:
        raise InvalidArgument(f"run {wanted!r} is not in {location}, which holds {len(documents)} runs: {names}")
    raise InvalidArgument(f"{location} holds {len(documents)} runs; name one of them as run: {names}")


def open_run(
    store: ObjectStore,
    location: Location,
    *,
    config: Mapping[str, Any],
    total_images: int | None,
    origin: str,
    name: str | None = None,
) -> RunDocument:
    """The run of the folder; it begins if there is none. `name`: None is the folder's own name.

    Raises InvalidArgument when the folder holds a run of another configuration, and SnapshotError.
    """
    if total_images is not None and total_images < 1:
        raise InvalidArgument(f"total_images {total_images} must be at least 1, or None when it is not known")
    described = _plain(config)
    chosen = checked_name(name) if name is not None else _usable_name(last_part(location))
    store.check()
    run_id = _named_run(store) or _claim(store, location)
    wanted = RunDocument(id=run_id, name=chosen, origin=origin, total_images=total_images, config=described)
    try:
        found = read_run(store, run_id)
    except ObjectMissing:
        try:
            store.put(run_key(run_id), wanted.encode())
            return wanted
        except ObjectExists:  # another process opened the folder at the same time
            found = read_run(store, run_id)
    _check_same(location, found, wanted, named=name is not None)
    return found


def _check_same(location: Location, found: RunDocument, wanted: RunDocument, *, named: bool) -> None:
    where = f"{location} holds run {found.name}"
    if found.config != wanted.config or found.origin != wanted.origin:
        raise InvalidArgument(f"{where} with another config or origin; give the same ones to go on, or another folder")
    if wanted.total_images not in (None, found.total_images):
        was = "was begun without one" if found.total_images is None else f"was begun with {found.total_images}"
        raise InvalidArgument(f"total_images {wanted.total_images} cannot be given to run {found.name}, which {was}")
    if named and found.name != wanted.name:
        raise InvalidArgument(f"{where}, not {wanted.name}; leave name out to go on with it, or choose another folder")


def _named_run(store: ObjectStore) -> str | None:
    """The id in `folder.json`; None without that file. Raises CorruptObject."""
    try:
        document = json.loads(store.get(FOLDER_RUN))
        if not _RUN_ID.fullmatch(document["run_id"]):
            raise ValueError(f"run_id is {document['run_id']!r}")
    except ObjectMissing:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptObject(f"object {FOLDER_RUN} in {store.url} does not name a run: {error}") from error
    return str(document["run_id"])


def _claim(store: ObjectStore, location: Location) -> str:
    """Begin a run in a folder that names none. Raises InvalidArgument for the store of a service."""
    if next(stored_runs(store), None) is not None:
        raise InvalidArgument(
            f"{location} holds runs of a service; choose an empty folder, or write into the service's run by its name"
        )
    run_id = f"run-{secrets.token_hex(6)}"
    try:
        store.put(FOLDER_RUN, json.dumps({"run_id": run_id}).encode())
    except ObjectExists:  # another process was first
        found = _named_run(store)
        assert found is not None, "objects of a store do not vanish"
        return found
    return run_id


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it comes back from JSON. Raises InvalidArgument."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"config must be what JSON can hold: {error}") from error
    return plain


def checked_name(name: str) -> str:
    """The name itself. Raises InvalidArgument unless a service accepts it as the name of a run."""
    if not _NAME.fullmatch(name) or name.startswith("run-") or name == "external":
        raise InvalidArgument(
            f"name {name!r} must be at most 63 letters, digits and ._-, begin with a letter or digit, and be neither "
            "external nor like an id (run-…)"
        )
    return name


def _usable_name(text: str) -> str:
    """The nearest name that a service accepts."""
    plain = _NOT_IN_NAMES.sub("-", text).strip("-._")[:63]
    try:
        return checked_name(plain)
    except PhemaError:
        return "mine"
