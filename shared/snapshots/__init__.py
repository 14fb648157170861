"""Bytes: the object store, the snapshot file, the plan, and the streaming reconstruction.

Importing this package or its store, header and plan modules never imports torch.
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
from phema.shared.snapshots.stores.store import (
    ObjectInfo,
    ObjectStore,
    ObjectWriter,
    S3Options,
    digest,
    open_store,
    verify,
)

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
