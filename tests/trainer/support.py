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
from phema.shared.snapshots import ObjectStore, open_store, verify
from phema.shared.snapshots.files.header import read_header
from tests.trainer.tiny_runs import tiny_config as tiny_config

DEADLINE_SECONDS = 400.0


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
