"""Making the bucket of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phema.shared.snapshots.errors import BucketMissing
from phema.shared.snapshots.stores.s3 import S3Store
from phema.shared.snapshots.stores.s3_errors import translated
from phema.shared.snapshots.stores.store import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CreateBucketRequestTypeDef

_UNCONSTRAINED = "us-east-1"
"""The one region that must not be named when a bucket is made."""


def make_bucket(store: ObjectStore, region: str) -> bool:
    """Make the bucket unless it is there; True when it was made. A local folder makes itself.

    Raises StoreDenied and StoreUnreachable.
    """
    try:
        store.check()
    except BucketMissing:
        if not isinstance(store, S3Store):
            raise
        wanted: CreateBucketRequestTypeDef = {"Bucket": store.bucket}
        if region != _UNCONSTRAINED:
            wanted["CreateBucketConfiguration"] = {"LocationConstraint": region}  # type: ignore[typeddict-item]
        with translated(store, "make the bucket"):
            store.client.create_bucket(**wanted)
        store.check()
        return True
    return False
