"""Creates the bucket of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phema.shared.snapshots.errors import BucketMissing
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.s3.store import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CreateBucketRequestTypeDef

_DEFAULT_REGION = "us-east-1"
"""The one region that S3 does not allow to be named when a bucket is created."""


def make_bucket(store: ObjectStore, region: str) -> bool:
    """Create the store's bucket unless it exists. Returns whether it was created. A local folder is created, too.

    Raises StoreDenied and StoreUnreachable.
    """
    try:
        store.check()
    except BucketMissing:
        if not isinstance(store, S3Store):
            raise
        wanted: CreateBucketRequestTypeDef = {"Bucket": store.bucket.name}
        if region != _DEFAULT_REGION:
            wanted["CreateBucketConfiguration"] = {"LocationConstraint": region}  # type: ignore[typeddict-item]
        with store.bucket.errors("make the bucket"):
            store.bucket.client.create_bucket(**wanted)
        store.check()
        return True
    return False
