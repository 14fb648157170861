"""What can go wrong between phema and its bytes."""

from __future__ import annotations


class SnapshotError(Exception):
    """Root of this room's errors. Each says in one sentence what happened to which object of which store.

    SnapshotError
    ├── ObjectExists       the key is taken by other bytes; objects are write-once
    ├── ObjectMissing      no object has that key
    ├── CorruptObject      an object is shorter, longer or other than what was written
    ├── BucketMissing      the bucket of the store's URL does not exist
    ├── StoreDenied        the store refuses these credentials, or this user may not write there
    ├── StoreFull          the disk, the quota or the bucket has no room left; nothing was left half-written
    ├── StoreUnreachable   the store does not answer; the only one that is worth a retry
    └── ForeignFileRefused a file of another program is not what it must be (see `phema.shared.snapshots.foreign`)
    """


class ObjectExists(SnapshotError):
    """The key is taken by other bytes; objects are write-once."""


class ObjectMissing(SnapshotError):
    """No object has that key."""


class CorruptObject(SnapshotError):
    """An object is shorter, longer or other than what was written."""


class BucketMissing(SnapshotError):
    """The bucket of the store's URL does not exist."""


class StoreDenied(SnapshotError):
    """The store refuses these credentials, or this user may not write there."""


class StoreFull(SnapshotError):
    """The disk, the quota or the bucket has no room left; nothing was left half-written."""


class StoreUnreachable(SnapshotError):
    """The store does not answer; the only one that is worth a retry."""
