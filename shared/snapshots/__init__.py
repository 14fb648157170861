"""Snapshots: object stores, snapshot files, planning of reconstructions, and the reconstruction itself.

This package, its stores, the header of snapshot files, and planning can be imported without torch.
"""

from __future__ import annotations

from phema.shared.snapshots.errors import (
    BucketMissing,
    CorruptObject,
    ObjectExists,
    ObjectMissing,
    SnapshotError,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
)
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore, ObjectWriter
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.snapshots.stores.options import S3Options
from phema.shared.snapshots.stores.verification import digest, verify

__all__ = [
    "BucketMissing",
    "CorruptObject",
    "ObjectExists",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "ObjectWriter",
    "S3Options",
    "SnapshotError",
    "StoreDenied",
    "StoreFull",
    "StoreUnreachable",
    "digest",
    "open_store",
    "verify",
]
