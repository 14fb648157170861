"""`run.json`: what the store records of a run beside its snapshots. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from phema.shared.snapshots.errors import CorruptObject, ObjectExists
from phema.shared.snapshots.files.run_renames import latest_name
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import run_key
from phema.shared.validation_sentences import sentence


class RunDocument(BaseModel):
    """Name, origin and configuration of a run. From it and the snapshots, a lost catalog can be rebuilt."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    id: str
    name: str
    origin: str = "trained"
    """`trained` (by phema), `external` (by another training loop) or `imported` (from files)."""
    total_images: int | None = None
    """Length of the training; None when it grows with the snapshots."""
    config: dict[str, Any]

    def encode(self) -> bytes:
        """The bytes of `run.json`. Equal documents give equal bytes, because objects are write-once.

        Fields that were not given are left out: runs that phema trains have neither origin nor total_images there.
        """
        return json.dumps(self.model_dump(mode="json", exclude_unset=True), sort_keys=True, indent=1).encode()


def put_run(store: ObjectStore, run_id: str, document: Data | HashedBytes) -> ObjectInfo:
    """Store `run.json`, unless it is there.

    The document says what the run was when it began: a run that was renamed or extended keeps it. Raises ObjectExists
    when the stored document differs in more than name and length, and the store's other errors.
    """
    key = run_key(run_id)
    try:
        return store.put(key, document)
    except ObjectExists:
        found = store.get(key)
        wanted = document.view if isinstance(document, HashedBytes) else document
        if _lasting(found) != _lasting(bytes(wanted)):
            raise
        return ObjectInfo(key, len(found), hashlib.sha256(found).hexdigest())


def _lasting(document: bytes) -> Any:
    """What no user can change."""
    fields = json.loads(document)
    config = {name: value for name, value in fields.get("config", {}).items() if name != "total_images"}
    return {name: value for name, value in fields.items() if name != "name"} | {"config": config}


def read_run(store: ObjectStore, run_id: str) -> RunDocument:
    """The description of a run, with its latest name.

    Raises ObjectMissing, CorruptObject and the store's other errors.
    """
    key = run_key(run_id)
    try:
        document = RunDocument.model_validate_json(store.get(key))
        name = latest_name(store, run_id)
        return document if name is None else document.model_copy(update={"name": name})
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise CorruptObject(f"object {key} in {store.url} does not describe a run: {problem}") from error


def stored_runs(store: ObjectStore) -> Iterator[str]:
    """Ids of all runs that the store describes. Lists every object of every run."""
    for info in store.list("runs/"):
        _, run_id, *rest = info.key.split("/")
        if rest == ["run.json"]:
            yield run_id
