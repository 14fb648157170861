"""Checks before and after an upload: is the key taken, and does the server hold the bytes that were sent?"""

from __future__ import annotations

from phema.shared.snapshots.errors import CorruptObject, ObjectExists, StoreUnreachable
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.reader import S3Reader
from phema.shared.snapshots.stores.verification import digest


def accept_equal(bucket: S3Bucket, info: ObjectInfo) -> ObjectInfo:
    """The result for a key that is taken: `info` if the object holds the same bytes.

    Reads the object unless its SHA-256 is recorded. Raises ObjectExists if the bytes differ.
    """
    found = bucket.find(info.key)
    if found is None:  # another writer has the key and is not finished, or has just deleted the object
        raise StoreUnreachable(f"store {bucket.url} at {bucket.server} does not accept {info.key} now; try again later")
    if found.size == info.size and (found.sha256 or digest(S3Reader(bucket), info.key).sha256) == info.sha256:
        return info
    raise ObjectExists(f"object {info.key} already exists in {bucket.url} with other bytes")


def confirm(bucket: S3Bucket, info: ObjectInfo, etag: str) -> ObjectInfo:
    """Check that the server holds what was sent. `etag`: the ETag that follows from the MD5 of the bytes.

    Compares size and ETag. Reads the object if the ETag differs, because encrypted buckets do not use MD5.
    Deletes the object and raises CorruptObject if its bytes differ.
    """
    head = bucket.client.head_object(**bucket.address(info.key))
    same = head["ContentLength"] == info.size
    if not same or (head["ETag"].strip('"') != etag and digest(S3Reader(bucket), info.key).sha256 != info.sha256):
        # The key is unique, so the object is ours. If it stayed, it would block the next attempt.
        bucket.client.delete_object(**bucket.address(info.key))
        raise CorruptObject(
            f"object {info.key} in {bucket.url} holds {head['ContentLength']} bytes with ETag {head['ETag']} "
            f"after {info.size} bytes with SHA-256 {info.sha256} were uploaded"
        )
    return info
