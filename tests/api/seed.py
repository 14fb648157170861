"""Writes what trainers and workers would write, through the same catalog and store."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from phema.shared.catalog import Basis, Catalog, Evaluation, Job, JobKind, Reconstruction, Run
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores import object_keys as layout
from phema.shared.snapshots.stores.interface import ObjectStore

TIMES = tuple(range(3200, 25_601, 3200))
STORED = (0.05, 0.10)
NO_ERRORS = {"profile_error": 0.0, "rounding_error": 0.0, "predicted_error": 0.0, "noise_gain": 1.0}


def run(catalog: Catalog, name: str = "digits") -> Run:
    config = resolve("digits-tiny")
    with catalog.transaction() as tx:
        return tx.runs.create(name, config.model_dump(mode="json"), config.config_hash, config.total_images)


def snapshots(
    catalog: Catalog,
    store: ObjectStore,
    run_id: str,
    times: Sequence[int] = TIMES,
    sigma_rels: Sequence[float] = STORED,
    num_bytes: int = 64,
) -> list[str]:
    """Ids of new snapshots with random bytes: the API does not read their contents."""
    rows = []
    for num_images in times:
        for sigma_rel in sigma_rels:
            data = secrets.token_bytes(num_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            key = layout.snapshot_key(run_id, num_images=num_images, label=f"{sigma_rel:g}", sha256=sha256)
            store.put(key, data)
            rows.append((num_images, sigma_rel, key, sha256))
    with catalog.transaction() as tx:
        return [
            tx.snapshots.add(
                run_id=run_id,
                num_images=num_images,
                profile=Profile.power(sigma_rel).model_dump(mode="json"),
                dtype="float32",
                key=key,
                size=num_bytes,
                sha256=sha256,
            )[0].id
            for num_images, sigma_rel, key, sha256 in rows
        ]


def weights(
    catalog: Catalog,
    store: ObjectStore,
    run: Run,
    profiles: Sequence[Profile],
    times: Sequence[int] = TIMES,
    tensors: Sequence[str] = ("enc.conv.weight", "dec.conv.weight", "dec.emb.weight"),
) -> None:
    """Snapshots that are real files of a few small tensors, with their probes; `freqs` is a buffer in them."""
    for num_images in times:
        for profile in profiles:
            generator = torch.Generator().manual_seed(num_images)
            state = {name: torch.randn(6, 5, generator=generator) for name in tensors} | {"freqs": torch.ones(4)}
            metadata = SnapshotMetadata(
                run_id=run.id,
                num_images=num_images,
                profile=profile,
                dtype="float32",
                buffers=("freqs",),
                code_version="test",
                config_hash=run.config_hash,
                config=run.config,
            )
            data = encode(state, metadata)
            sha256 = hashlib.sha256(data).hexdigest()
            key = layout.snapshot_key(run.id, num_images=num_images, label=profile.label, sha256=sha256)
            store.put(key, data)
            with catalog.transaction() as tx:
                tx.snapshots.add(
                    run_id=run.id,
                    num_images=num_images,
                    profile=profile.model_dump(mode="json"),
                    dtype="float32",
                    key=key,
                    size=len(data),
                    sha256=sha256,
                    probe=probe_of(data),
                )


def upload(
    store: ObjectStore,
    run: Any,
    *,
    num_images: int,
    weights: Sequence[float],
    profile: Profile | None = None,
    says: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a snapshot file of an external run (the API's document) into the store; the request that registers it.

    `says`: fields of its header that differ from the request.
    """
    profile = profile or Profile.power(0.05)
    metadata = {
        "run_id": run["id"],
        "num_images": num_images,
        "profile": profile,
        "dtype": "float16",
        "code_version": "test",
        "config_hash": run["config_hash"],
        "config": run["config"],
    }
    data = encode({"weight": torch.tensor(weights)}, SnapshotMetadata.model_validate(metadata | dict(says or {})))
    sha256 = hashlib.sha256(data).hexdigest()
    key = layout.snapshot_key(run["id"], num_images=num_images, label=profile.label, sha256=sha256)
    store.put(key, data)
    return {
        "num_images": num_images,
        "profile": profile.model_dump(mode="json"),
        "dtype": "float16",
        "key": key,
        "size": len(data),
        "sha256": sha256,
        "probe": base64.b64encode(probe_of(data)).decode(),
    }


def trained(catalog: Catalog, store: ObjectStore, name: str = "digits") -> Run:
    """A run with 16 snapshots."""
    created = run(catalog, name)
    snapshots(catalog, store, created.id)
    return created


def claim(catalog: Catalog, kind: JobKind) -> Job:
    with catalog.transaction() as tx:
        job = tx.leases.claim([kind], owner="test", lease_seconds=60)
    assert job is not None
    return job


def finish_reconstructions(catalog: Catalog, store: ObjectStore, num_bytes: int = 64) -> list[Reconstruction]:
    """Do the oldest queued reconstruction job as a worker would."""
    job = claim(catalog, JobKind.RECONSTRUCT)
    finished = []
    for identity in job.payload["reconstruction_ids"]:
        data = secrets.token_bytes(num_bytes)
        key = layout.reconstruction_key(job.payload["run_id"], identity, secrets.token_hex(4))
        info = store.put(key, data)
        with catalog.transaction() as tx:
            finished.append(tx.reconstructions.complete(identity, key, info.size, hashlib.sha256(data).hexdigest()))
    with catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
    return finished


def finish_basis(catalog: Catalog, store: ObjectStore, num_bytes: int = 128) -> Basis:
    """Do the oldest queued compaction as a worker would."""
    job = claim(catalog, JobKind.COMPACT)
    with catalog.transaction() as tx:
        row = tx.bases.get(job.payload["basis_id"])
    vectors = []
    for index in range(len(row.plan["vectors"])):
        data = secrets.token_bytes(num_bytes)
        info = store.put(layout.basis_key(row.run_id, row.id, index, secrets.token_hex(4)), data)
        vectors.append({"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest()})
    with catalog.transaction() as tx:
        tx.leases.assert_fence(job.id, job.fence)
        row = tx.bases.complete(row.id, vectors)
        tx.leases.succeed(job.id, job.fence, {})
    return row


def finish_evaluation(
    catalog: Catalog, store: ObjectStore, figures: dict[str, float], png: bytes = b"\x89PNG pictures"
) -> Evaluation:
    """Do the oldest queued evaluation job as a worker would."""
    job = claim(catalog, JobKind.EVALUATE)
    key = layout.pictures_key(job.payload["evaluation_id"], secrets.token_hex(4))
    store.put(key, png)
    with catalog.transaction() as tx:
        tx.leases.assert_fence(job.id, job.fence)
        row = tx.evaluations.complete(job.payload["evaluation_id"], figures, key)
        tx.leases.succeed(job.id, job.fence, {})
    return row


def reconstruction(catalog: Catalog, store: ObjectStore, run_id: str, sigma_rel: float = 0.07) -> Reconstruction:
    """A finished reconstruction of a run, with an empty plan."""
    with catalog.transaction() as tx:
        row, _ = tx.reconstructions.find_or_create(
            run_id=run_id,
            num_images=TIMES[-1],
            profile=Profile.power(sigma_rel).model_dump(mode="json"),
            dtype="float32",
            plan={"snapshots": [], "coefficients": [], **NO_ERRORS},
        )
        job, _ = tx.jobs.enqueue(
            JobKind.RECONSTRUCT,
            payload={"run_id": run_id, "num_images": TIMES[-1], "reconstruction_ids": [row.id]},
            content_key=f"seed:{row.id}",
            run_id=run_id,
        )
        tx.reconstructions.assign([row.id], job.id)
    return finish_reconstructions(catalog, store)[0]
