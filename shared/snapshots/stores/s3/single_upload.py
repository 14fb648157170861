"""Uploads a small object with one request."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

from botocore.exceptions import ClientError

from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.errors import is_precondition
from phema.shared.snapshots.stores.s3.upload_checks import accept_equal, confirm


def upload_at_once(bucket: S3Bucket, info: ObjectInfo, body: bytes | bytearray) -> ObjectInfo:
    """Upload and verify. The server refuses the body if its MD5 differs.

    The caller must translate boto3's errors, and must have checked that the key is free.
    """
    md5 = hashlib.md5(body, usedforsecurity=False)
    arguments: dict[str, Any] = {
        **bucket.address(info.key),
        "Body": body,
        "ContentMD5": b64encode(md5.digest()).decode(),
        "Metadata": {"sha256": info.sha256 or ""},
    }
    try:
        bucket.write_if_absent(bucket.client.put_object, **arguments)
    except ClientError as error:
        if not is_precondition(error):
            raise
        return accept_equal(bucket, info)
    return confirm(bucket, info, md5.hexdigest())
