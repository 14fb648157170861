"""A run small enough to train many times, and functions that read its results."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.tracked_averages import profile_of
from phema.shared.catalog import Catalog, Run
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots import ObjectStore, open_store, verify
from phema.shared.snapshots.files.header import read_header

DEADLINE_SECONDS = 400.0


def tiny_config(**fields: Any) -> RunConfig:
    """Digits, 170,000 parameters, batches of 16: 20 iterations with 4 snapshot times and 2 checkpoints."""
    overrides: dict[str, Any] = {
        "network": {"model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [], "channels_per_head": 16},
        "total_images": 320,
        "batch_size": 16,
        "snapshot_every": 80,
        "checkpoint_every": 160,
        "status_every": 80,
        "magnitudes_every": 80,
        "lr_rampup_images": 80,
        "seed": 1,
    }
    network = {**overrides["network"], **fields.pop("network", {})}
    return resolve("digits-tiny", {**overrides, "network": network, **fields})


def new_catalog(folder: Path) -> Catalog:
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    return catalog


def new_store(folder: Path) -> ObjectStore:
    return open_store((folder / "store").as_uri())


def snapshots_of(catalog: Catalog, store: ObjectStore, run: str) -> dict[tuple[int, float | None], str]:
    """(num_images, sigma_rel) to the SHA-256 of the tensors' bytes, for every registered snapshot of the run.

    Each file is checked against its row first. The header is not hashed, because it contains the run's id.
    """
    with catalog.transaction(read_only=True) as tx:
        rows = tx.snapshots.list(tx.runs.get(run).id)
    found = {}
    for row in rows:
        verify(store, row.key, size=row.size, sha256=row.sha256)
        header = read_header(store, row.key)
        assert header.metadata is not None
        assert header.metadata.num_images == row.num_images
        assert header.metadata.profile == profile_of(row)
        data = store.get(row.key)[header.data_start :]
        found[row.num_images, row.sigma_rel] = hashlib.sha256(data).hexdigest()
    return found


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Poll until `condition` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


def get_run(catalog: Catalog, run: str) -> Run:
    with catalog.transaction(read_only=True) as tx:
        return tx.runs.get(run)


def checkpoint_times(catalog: Catalog, run: str) -> list[int]:
    with catalog.transaction(read_only=True) as tx:
        return [c.num_images for c in tx.checkpoints.all_but_latest(tx.runs.get(run).id, 0)]


def loose_attempt(run_id: str = "run-1", **fields: Any) -> TrainingAttempt:
    """An attempt that no catalog knows."""
    config = tiny_config(**fields)
    return TrainingAttempt("job-1", 1, run_id, "loose", config, config.model_dump(mode="json"), config.config_hash)
