"""What the storm's runs must end in: the same configurations, trained without any disturbance."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phema.services.trainer.local_training import train_locally
from phema.shared.catalog import Catalog
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots import ObjectStore, open_store

PRESET = "digits-tiny"


Fields = dict[str, Any]
"""Fields of a run's configuration, as a request names them."""


def fields_of_runs(total_images: int, *, two_workers: bool) -> list[Fields]:
    """What a storm trains, again and again: two runs of one worker and, if wanted, a shorter one of two workers."""
    several = [_fields(0, 1_920) | {"num_workers": 2}] if two_workers else []
    return [_fields(0, total_images), _fields(1, total_images), *several]


def _fields(seed: int, total_images: int) -> Fields:
    return {
        "total_images": total_images,
        "snapshot_every": 640,
        "checkpoint_every": 640,
        "status_every": 640,
        "magnitudes_every": 640,
        "seed": seed,
        "network": {"model_channels": 16, "channels_per_head": 16, "channel_mult": [1], "attn_resolutions": []},
    }


Time = tuple[int, float]
"""num_images and sigma_rel of a snapshot."""


@dataclass(frozen=True)
class Undisturbed:
    """Of each snapshot, the SHA-256 of its tensors, and the file itself."""

    digests: dict[Time, str]
    files: dict[Time, bytes]


def train_undisturbed(fields: Fields) -> Undisturbed:
    """Train in this process, without services. One worker only."""
    with tempfile.TemporaryDirectory(prefix="phema-undisturbed-") as folder:
        store = open_store((Path(folder) / "store").as_uri())
        with closing(Catalog(f"sqlite:///{folder}/catalog.db")) as catalog:
            catalog.upgrade()
            train_locally(resolve(PRESET, fields), catalog, store, name="undisturbed")
            return stored_snapshots(catalog, store, "undisturbed")


def stored_snapshots(catalog: Catalog, store: ObjectStore, run: str) -> Undisturbed:
    with catalog.transaction(read_only=True) as tx:
        rows = tx.snapshots.list(tx.runs.get(run).id)
    files = {(row.num_images, float(row.sigma_rel or 0)): store.get(row.key) for row in rows}
    return Undisturbed({time: tensor_digest(file) for time, file in files.items()}, files)


def tensor_digest(file: bytes) -> str:
    """SHA-256 of names, types, shapes and bits of the tensors of a safetensors file, without its metadata.

    The metadata names the run, which differs.
    """
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(file[8 + size :])
    return digest.hexdigest()
