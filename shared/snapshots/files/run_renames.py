"""Records that a run was renamed: `run.json` keeps the first name, since objects are write-once. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import rename_prefix
from phema.shared.validation_sentences import sentence


class RunRename(BaseModel):
    """The run has this name from then on."""

    model_config = ConfigDict(frozen=True, extra="allow")

    run_id: str
    name: str
    renamed_at: float
    """Seconds since the epoch."""

    def encode(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


@dataclass(frozen=True)
class Renames:
    """The records of one run that are in the store, oldest first."""

    infos: tuple[ObjectInfo, ...]

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return max((int(info.key.rsplit("/", 1)[1].split("-")[0]) for info in self.infos), default=0) + 1


def renames(store: ObjectStore, run_id: str) -> Renames:
    """Raises the errors of the store."""
    return Renames(tuple(store.list(rename_prefix(run_id))))


def latest_name(store: ObjectStore, run_id: str, *, leave_out: Collection[str] = ()) -> str | None:
    """The name in the newest record whose key is not in `leave_out`; None for a run that was never renamed.

    Raises CorruptObject and the errors of the store.
    """
    keys = [info.key for info in renames(store, run_id).infos if info.key not in leave_out]
    if not keys:
        return None
    try:
        return RunRename.model_validate_json(store.get(keys[-1])).name
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise CorruptObject(f"object {keys[-1]} in {store.url} is no record of a rename: {problem}") from error
