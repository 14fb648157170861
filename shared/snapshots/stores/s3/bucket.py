"""The connection to one bucket: its client, the addresses of objects, and requests that several modules share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.object_keys import check_key
from phema.shared.snapshots.stores.options import S3Options
from phema.shared.snapshots.stores.s3.errors import code_of, is_missing, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class ObjectAddress(TypedDict):
    """The arguments of boto3's requests that name an object."""

    Bucket: str
    Key: str


class S3Bucket:
    """A bucket, and the prefix below which the store's keys lie. Thread-safe."""

    def __init__(self, name: str, prefix: str, options: S3Options) -> None:
        self.name, self.prefix = name, f"{check_key(prefix)}/" if prefix else ""
        self.url = f"s3://{name}/{prefix}".rstrip("/")
        self.server = options.endpoint_url or f"AWS S3 in {options.region}"
        """What error messages call the server."""
        self.client = make_client(options, options.endpoint_url)
        self._conditional = True

    def address(self, key: str) -> ObjectAddress:
        """The object's address. Raises ValueError for a malformed key."""
        return {"Bucket": self.name, "Key": self.prefix + check_key(key)}

    def errors(self, action: str, key: str = "") -> AbstractContextManager[None]:
        """Turn boto3's errors into SnapshotError. Set `key` where it is an error that this object does not exist."""
        return translated(self, action, key)

    def find(self, key: str) -> ObjectInfo | None:
        """Size and SHA-256 (if recorded) of an object, or None. Raises boto3's errors."""
        try:
            head = self.client.head_object(**self.address(key))
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return ObjectInfo(key, head["ContentLength"], head["Metadata"].get("sha256"))

    def write_if_absent(self, request: Any, **arguments: Any) -> Any:
        """Send a write with `If-None-Match: *`. Servers that do not implement this get it without."""
        if self._conditional:
            try:
                return request(**arguments, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in ("NotImplemented", "501"):
                    raise
                self._conditional = False
        return request(**arguments)


def make_client(options: S3Options, endpoint: str | None) -> S3Client:
    """A client for AWS (`endpoint` None), or for another server, which gets path-style addresses.

    Checksums are sent only where an operation requires them: older servers cannot read boto3's default trailing ones.
    """
    session = boto3.session.Session()  # one session per store: boto3's shared session is not thread-safe
    config = Config(
        signature_version="s3v4",
        # Every upload carries a signed Content-MD5. Signing the payload would hash the body a second time.
        s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": False},
        retries={"mode": "standard", "max_attempts": 3},
        max_pool_connections=32,
        connect_timeout=5,
        read_timeout=60,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=options.region,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        config=config,
    )
