"""The object store in an S3 bucket, through boto3."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from phema.shared.snapshots.errors import CorruptObject, ObjectExists, StoreUnreachable
from phema.shared.snapshots.stores.object_keys import check_key
from phema.shared.snapshots.stores.s3_errors import code_of, is_missing, is_precondition, translated
from phema.shared.snapshots.stores.s3_resumable import ResumableS3Writer, forget
from phema.shared.snapshots.stores.s3_writer import S3Writer
from phema.shared.snapshots.stores.store import Data, ObjectInfo, S3Options, digest, filled

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PUT_PART_BYTES = 2**23
_MULTIPART_THRESHOLD = 2**25
_MAX_PARTS = 10_000
_PARTS_IN_FLIGHT = 2
_READ_ATTEMPTS = 4
_BEYOND_END = ("InvalidRange", "416")
_READ_STEP = 2**17


class _BrokenOff(Exception):
    """The connection ended in the middle of an object's bytes."""


class S3Store:
    """`s3://bucket/prefix`. Uploads are checked by the server (Content-MD5) and again by us (size, ETag or SHA-256).

    If-None-Match is sent as extra defence and dropped for good when the server does not implement it.
    """

    writer_memory_bytes = S3Writer.PART_BYTES
    read_bytes = 2**22
    reads_in_flight = 16
    read_memory_bytes = 2 * _READ_STEP

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self.bucket, self.prefix = bucket, f"{check_key(prefix)}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.where = options.endpoint_url or f"AWS S3 in {options.region}"
        self.client = _client(options, options.endpoint_url)
        public = options.public_endpoint_url or options.endpoint_url
        self._presigner = self.client if public == options.endpoint_url else _client(options, public)
        self._conditional = True
        self._lock = threading.Lock()
        self._uploads: ThreadPoolExecutor | None = None

    def check(self) -> None:
        with translated(self, "open the bucket"):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def put(self, key: str, data: Data) -> ObjectInfo:
        view = memoryview(data).cast("B").toreadonly()
        info = ObjectInfo(check_key(key), len(view), hashlib.sha256(view).hexdigest())
        with translated(self, f"write {key}"):
            if self._head(key) is not None:
                return self.accept_equal(info)
            if len(view) < _MULTIPART_THRESHOLD:
                return self.put_single(info, bytes(view), {"sha256": info.sha256 or ""})
            return self._put_multipart(info, view)

    def put_single(self, info: ObjectInfo, body: bytes | bytearray, metadata: dict[str, str]) -> ObjectInfo:
        """One request; the caller translates errors and has looked for an existing object."""
        md5 = hashlib.md5(body, usedforsecurity=False)
        sent: dict[str, Any] = {"Body": body, "ContentMD5": b64encode(md5.digest()).decode(), "Metadata": metadata}
        try:
            self.conditionally(self.client.put_object, Bucket=self.bucket, Key=self.prefix + info.key, **sent)
        except ClientError as error:
            if not is_precondition(error):
                raise
            return self.accept_equal(info)
        return self.confirm(info, md5.hexdigest())

    def _put_multipart(self, info: ObjectInfo, view: memoryview) -> ObjectInfo:
        step = max(_PUT_PART_BYTES, -(-len(view) // _MAX_PARTS))
        with self.writer(info.key, metadata={"sha256": info.sha256 or ""}) as writer:
            writer.begin()
            parts = enumerate(range(0, len(view), step), start=1)
            for part in self._pool().map(lambda at: writer.upload(at[0], bytes(view[at[1] : at[1] + step])), parts):
                writer.parts.append(part)
            writer.finish_with(info)
        return writer.info

    def writer(self, key: str, *, metadata: dict[str, str] | None = None) -> S3Writer:
        return S3Writer(self, check_key(key), metadata or {})

    def resumable(self, key: str) -> ResumableS3Writer:
        return ResumableS3Writer(self, check_key(key))

    def forget(self, key: str) -> None:
        with translated(self, f"forget {key}"):
            forget(self, check_key(key))

    def conditionally(self, call: Any, **arguments: Any) -> Any:
        """A write with If-None-Match: *, or without it on servers that do not know it."""
        if self._conditional:
            try:
                return call(**arguments, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in ("NotImplemented", "501"):
                    raise
                self._conditional = False
        return call(**arguments)

    def accept_equal(self, info: ObjectInfo) -> ObjectInfo:
        """The key is taken: success when it holds the same bytes, else ObjectExists."""
        found = self._head(info.key)
        if found is None:  # another writer holds the key and has not finished, or has just deleted it
            raise StoreUnreachable(f"store {self.url} at {self.where} would not take {info.key} just now")
        if found.size == info.size and (found.sha256 or self._digest(info.key)) == info.sha256:
            return info
        raise ObjectExists(f"object {info.key} already exists in {self.url} with other bytes")

    def confirm(self, info: ObjectInfo, etag: str) -> ObjectInfo:
        """What the server now holds is what was sent: by size and ETag, or by reading it where ETags are no MD5."""
        head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + info.key)
        same = head["ContentLength"] == info.size
        if not same or (head["ETag"].strip('"') != etag and self._digest(info.key) != info.sha256):
            self.delete(info.key)  # nobody else's: keys are unique, and left there it would refuse the next attempt
            raise CorruptObject(
                f"object {info.key} in {self.url} holds {head['ContentLength']} bytes with ETag {head['ETag']} "
                f"after {info.size} bytes with SHA-256 {info.sha256} were uploaded"
            )
        return info

    def get(self, key: str) -> bytes:
        info, first = self.peek(key, self.read_bytes)

        def fill(view: memoryview) -> None:
            view[: len(first)] = first
            self.read_into(key, len(first), view[len(first) :])

        return first if len(first) == info.size else filled(info.size, fill)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return filled(length, lambda view: self.read_into(key, start, view))

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        done = broken = 0
        with translated(self, f"read {key}", key):
            while done < len(view):
                try:
                    for count in self._stream(key, start + done, view[done:]):
                        done += count
                except _BrokenOff as error:
                    broken += 1
                    if broken == _READ_ATTEMPTS:
                        raise StoreUnreachable(f"store {self.url} at {self.where} breaks off sending {key}") from error
                else:
                    break  # the server sent all it has
            if done < len(view):
                raise self._short(key, start, len(view))

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        with translated(self, f"read {key}", key):
            try:
                reply = self.client.get_object(
                    Bucket=self.bucket, Key=self.prefix + check_key(key), Range=f"bytes=0-{length - 1}"
                )
            except ClientError as error:
                if code_of(error) not in _BEYOND_END:
                    raise
                return ObjectInfo(key, 0), b""
        size = int(reply["ContentRange"].rpartition("/")[2])
        info = ObjectInfo(key, size, reply["Metadata"].get("sha256"))
        try:
            return info, reply["Body"].read()
        except (BotoCoreError, HTTPError, OSError):  # broken off: read it in the way that resumes
            return info, self.read_range(key, 0, min(length, size))
        finally:
            reply["Body"].close()

    def _stream(self, key: str, start: int, view: memoryview) -> Iterator[int]:
        """Fill `view` in small steps, yielding the size of each, so that a broken read resumes where it broke."""
        wanted = f"bytes={start}-{start + len(view) - 1}"
        try:
            response = self.client.get_object(Bucket=self.bucket, Key=self.prefix + check_key(key), Range=wanted)
        except ClientError as error:
            if code_of(error) not in _BEYOND_END:
                raise
            raise self._short(key, start, len(view)) from error
        body, done = response["Body"], 0
        try:
            length = min(response["ContentLength"], len(view))
            while done < length:
                step = view[done : min(done + _READ_STEP, length)]
                count = body.readinto(step)  # type: ignore[arg-type]  # the stub knows files only
                if count == 0:
                    raise _BrokenOff
                done += count
                yield count
        except (BotoCoreError, HTTPError, OSError) as error:
            raise _BrokenOff from error
        finally:
            body.close()

    def _short(self, key: str, start: int, length: int) -> CorruptObject:
        found = self._head(key)
        return CorruptObject(
            f"object {key} in {self.url} holds {found.size if found else 0} bytes; "
            f"bytes {start} to {start + length} were expected"
        )

    def head(self, key: str) -> ObjectInfo | None:
        with translated(self, f"look up {key}"):
            found = self._head(check_key(key))
            if found is None:  # a 404 to HEAD has no body: ask whether it was the bucket that is missing
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + key, MaxKeys=1)
            return found

    def _head(self, key: str) -> ObjectInfo | None:
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return ObjectInfo(key, head["ContentLength"], head["Metadata"].get("sha256"))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        pages = self.client.get_paginator("list_objects_v2")
        with translated(self, f"list {prefix!r}"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for found in page.get("Contents", []):
                    yield ObjectInfo(found["Key"].removeprefix(self.prefix), found["Size"])

    def delete(self, key: str) -> None:
        with translated(self, f"delete {key}"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + check_key(key))

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> str:
        quoted = filename.replace("\\", "_").replace('"', "_")
        disposition = f'attachment; filename="{quoted}"'
        return self._presign("get_object", key, expires_s, {"ResponseContentDisposition": disposition})

    def presigned_put(self, key: str, *, expires_s: int) -> str:
        return self._presign("put_object", key, expires_s, {})

    def _presign(self, method: str, key: str, expires_s: int, extra: dict[str, str]) -> str:
        arguments = {"Bucket": self.bucket, "Key": self.prefix + check_key(key), **extra}
        with translated(self, f"sign a URL for {key}"):
            return self._presigner.generate_presigned_url(method, Params=arguments, ExpiresIn=expires_s)

    def local_path(self, key: str) -> None:
        return None

    def _digest(self, key: str) -> str | None:
        return digest(self, key).sha256

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._uploads is None:
                self._uploads = ThreadPoolExecutor(_PARTS_IN_FLIGHT, thread_name_prefix="s3-upload")
            return self._uploads


def _client(options: S3Options, endpoint: str | None) -> S3Client:
    """Own endpoints are addressed by path, as test servers and most installations expect; AWS as boto3 sees fit.

    Checksums only where an operation requires them: older servers cannot read boto3's default trailing ones.
    """
    session = boto3.session.Session()  # a session per store: boto3's shared one is not thread-safe
    config = Config(
        signature_version="s3v4",
        # every upload carries a signed Content-MD5; hashing the body once more for the signature would double that
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
