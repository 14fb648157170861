"""Errors of object stores, snapshot files and foreign files."""

from __future__ import annotations


class SnapshotError(Exception):
    """Base class. Each error is one sentence that names the object and the store, or the file.

    SnapshotError
    ├── ObjectExists       the key is taken by other bytes; objects are write-once
    ├── ObjectMissing      no object has that key
    ├── CorruptObject      an object does not hold the bytes that were written
    ├── BucketMissing      the bucket of the store's URL does not exist
    ├── StoreDenied        the store refuses these credentials, or this user has no permission
    ├── StoreFull          the disk, the quota or the bucket is full; no partial object was left
    ├── StoreUnreachable   the store does not answer, or failed; a retry may succeed
    └── ForeignFileRefused a file of another program is not allowed (see `phema.shared.snapshots.foreign`)
    """


class ObjectExists(SnapshotError):
    """The key is taken by other bytes; objects are write-once."""


class ObjectMissing(SnapshotError):
    """No object has that key."""


class CorruptObject(SnapshotError):
    """An object does not hold the bytes that were written."""


class BucketMissing(SnapshotError):
    """The bucket of the store's URL does not exist."""


class StoreDenied(SnapshotError):
    """The store refuses these credentials, or this user has no permission.

    `code` is S3's name of the error, such as AccessDenied; empty where there is none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class StoreFull(SnapshotError):
    """The disk, the quota or the bucket is full; no partial object was left."""


class StoreUnreachable(SnapshotError):
    """The store does not answer, or failed; a retry may succeed."""
