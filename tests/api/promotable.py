"""Finished reconstructions whose files have the metadata of real ones, so that they can be promoted."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch

from phema.shared.catalog import Catalog, Reconstruction
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import reconstruction_key
from tests.api import seed

SNAPSHOTS = [
    {"id": f"snap-{i}", "num_images": 3200 * i, "profile": {"sigma_rel": 0.05}, "sha256": f"{i}" * 64} for i in (1, 2)
]


class Service(Protocol):
    """Direct access to the catalog and the store of a service."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def store(self) -> ObjectStore: ...


def weights(service: Service, run: str = "digits", sigma_rel: float = 0.07) -> Reconstruction:
    """A finished reconstruction whose file has the metadata of a real one."""
    with service.catalog.transaction() as tx:
        names = [row.name for row in tx.runs.all()]
    row_of_run = seed.run(service.catalog, run) if run not in names else None
    with service.catalog.transaction() as tx:
        of = row_of_run or tx.runs.get(run)
        profile = Profile.power(sigma_rel)
        plan = {"snapshots": SNAPSHOTS, "coefficients": [0.25, 0.75], **seed.NO_ERRORS, "predicted_error": 0.001}
        row, _ = tx.reconstructions.find_or_create(
            run_id=of.id, num_images=25_600, profile=profile.model_dump(mode="json"), dtype="float32", plan=plan
        )
        metadata = SnapshotMetadata(
            kind="reconstruction",
            run_id=of.id,
            num_images=25_600,
            profile=profile,
            dtype="float32",
            code_version="0.0.7",
            config_hash=of.config_hash,
            config=of.config,
            lineage=plan,
        )
        data = encode({"weight": torch.full([3], sigma_rel)}, metadata)
        info = service.store.put(reconstruction_key(of.id, row.id, "aa"), data)
        return tx.reconstructions.complete(row.id, info.key, info.size, hashlib.sha256(data).hexdigest())


def evaluate(
    service: Service,
    subject: Reconstruction,
    figures: dict[str, float],
    pictures_key: str = "pictures",
    **recipe: Any,
) -> None:
    """An evaluation with standard errors."""
    with service.catalog.transaction() as tx:
        row, _ = tx.evaluations.find_or_create(run_id=subject.run_id, reconstruction_id=subject.id, recipe=recipe)
        errors = dict.fromkeys(figures, 0.0126)
        tx.evaluations.complete(row.id, figures, pictures_key, errors=errors, provenance={"extractor": "random"})
