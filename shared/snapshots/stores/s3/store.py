"""The object store in an S3 bucket, through boto3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from phema.shared.snapshots.stores.filled_bytes import filled
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes, hashed
from phema.shared.snapshots.stores.interface import ABANDONED_DAYS, ObjectInfo
from phema.shared.snapshots.stores.object_keys import check_key
from phema.shared.snapshots.stores.options import S3Options
from phema.shared.snapshots.stores.s3.bucket import S3Bucket, make_client
from phema.shared.snapshots.stores.s3.reader import READ_STEP_BYTES, S3Reader
from phema.shared.snapshots.stores.s3.resumable import ResumableS3Writer, forget
from phema.shared.snapshots.stores.s3.single_upload import upload_at_once
from phema.shared.snapshots.stores.s3.unfinished_uploads import abort_abandoned
from phema.shared.snapshots.stores.s3.upload_checks import accept_equal
from phema.shared.snapshots.stores.s3.writer import S3Writer

_PUT_PART_BYTES = 2**23
_MULTIPART_THRESHOLD = 2**25
"""Objects of at least so many bytes are uploaded in parts."""
_MAX_PARTS = 10_000
"""S3's own limit."""
_PARTS_IN_FLIGHT = 2


class S3Store:
    """`s3://bucket/prefix`. The server checks each upload (Content-MD5), then phema does (size, and ETag or SHA-256).

    Writes carry If-None-Match as additional protection, until the server answers that it does not implement it.
    """

    writer_memory_bytes = S3Writer.PART_BYTES
    read_bytes = 2**22
    reads_in_flight = 16
    read_memory_bytes = 2 * READ_STEP_BYTES

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self.bucket = S3Bucket(bucket, prefix, options)
        self.url = self.bucket.url
        self._reader = S3Reader(self.bucket)
        public = options.public_endpoint_url or options.endpoint_url
        self._presigner = self.bucket.client if public == options.endpoint_url else make_client(options, public)
        self._lock = threading.Lock()
        self._uploads: ThreadPoolExecutor | None = None

    def check(self) -> None:
        with self.bucket.errors("open the bucket"):
            self.bucket.client.list_objects_v2(Bucket=self.bucket.name, Prefix=self.bucket.prefix, MaxKeys=1)

    def put(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        content = hashed(data)
        info = ObjectInfo(check_key(key), len(content), content.sha256)
        with self.bucket.errors(f"write {key}"):
            if self.bucket.find(key) is not None:
                return accept_equal(self.bucket, info)
            if len(content) < _MULTIPART_THRESHOLD:
                return upload_at_once(self.bucket, info, bytes(content.view))
            return self._put_in_parts(info, content.view)

    def _put_in_parts(self, info: ObjectInfo, view: memoryview) -> ObjectInfo:
        step = max(_PUT_PART_BYTES, -(-len(view) // _MAX_PARTS))
        with S3Writer(self.bucket, info.key, {"sha256": info.sha256 or ""}) as writer:
            writer.begin()
            parts = enumerate(range(0, len(view), step), start=1)
            for part in self._pool().map(lambda at: writer.upload(at[0], bytes(view[at[1] : at[1] + step])), parts):
                writer.parts.append(part)
            writer.finish_with(info)
        return writer.info

    def writer(self, key: str) -> S3Writer:
        return S3Writer(self.bucket, key, {})

    def resumable(self, key: str) -> ResumableS3Writer:
        return ResumableS3Writer(self.bucket, key)

    def forget(self, key: str) -> None:
        with self.bucket.errors(f"forget {key}"):
            forget(self.bucket, check_key(key))

    def sweep(self, older_than_s: float = ABANDONED_DAYS * 86_400) -> int:
        with self.bucket.errors("abort unfinished uploads"):
            return abort_abandoned(self.bucket, older_than_s)

    def get(self, key: str) -> bytes:
        info, first = self.peek(key, self.read_bytes)

        def fill(view: memoryview) -> None:
            view[: len(first)] = first
            self.read_into(key, len(first), view[len(first) :])

        return first if len(first) == info.size else filled(info.size, fill)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._reader.read_range(key, start, length)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self._reader.read_into(key, start, buffer)

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        return self._reader.peek(key, length)

    def head(self, key: str) -> ObjectInfo | None:
        return self._reader.head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        bucket = self.bucket
        with bucket.errors(f"list {prefix!r}"):
            pages = bucket.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket.name, Prefix=bucket.prefix + prefix):
                for found in page.get("Contents", []):
                    # Consoles and some servers keep empty objects that stand for folders. No key of ours ends so.
                    if not found["Key"].endswith("/"):
                        yield ObjectInfo(found["Key"].removeprefix(bucket.prefix), found["Size"])

    def delete(self, key: str) -> None:
        with self.bucket.errors(f"delete {key}"):
            self.bucket.client.delete_object(**self.bucket.address(key))

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> str:
        quoted = filename.replace("\\", "_").replace('"', "_")
        disposition = f'attachment; filename="{quoted}"'
        return self._presign("get_object", key, expires_s, {"ResponseContentDisposition": disposition})

    def presigned_put(self, key: str, *, expires_s: int) -> str:
        return self._presign("put_object", key, expires_s, {})

    def _presign(self, method: str, key: str, expires_s: int, extra: dict[str, str]) -> str:
        arguments = {**self.bucket.address(key), **extra}
        with self.bucket.errors(f"sign a URL for {key}"):
            return self._presigner.generate_presigned_url(method, Params=arguments, ExpiresIn=expires_s)

    def local_path(self, key: str) -> None:
        return None

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._uploads is None:
                self._uploads = ThreadPoolExecutor(_PARTS_IN_FLIGHT, thread_name_prefix="s3-upload")
            return self._uploads
