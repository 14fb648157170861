"""Reads objects of a bucket. A read whose connection breaks continues where it broke."""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from phema.shared.snapshots.errors import CorruptObject, StoreUnreachable
from phema.shared.snapshots.stores.filled_bytes import filled
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.errors import code_of

READ_STEP_BYTES = 2**17
"""Bytes after which the position of a read is recorded; a broken read continues there."""
_READ_ATTEMPTS = 4
_BEYOND_END = ("InvalidRange", "416")


class _ConnectionBroken(Exception):
    """The connection ended before all bytes of the answer had arrived."""


class S3Reader:
    """The reading half of the store; see `ObjectStore` for its methods."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self.url = bucket.url

    def head(self, key: str) -> ObjectInfo | None:
        with self._bucket.errors(f"look up {key}"):
            found = self._bucket.find(key)
            if found is None:  # a 404 to HEAD has no body: find out whether the bucket is missing
                bucket = self._bucket
                bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix + key, MaxKeys=1)
            return found

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return filled(length, lambda view: self.read_into(key, start, view))

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        done = broken = 0
        with self._bucket.errors(f"read {key}", key):
            while done < len(view):
                try:
                    for count in self._stream(key, start + done, view[done:]):
                        done += count
                except _ConnectionBroken as error:
                    broken += 1
                    if broken == _READ_ATTEMPTS:
                        raise StoreUnreachable(
                            f"store {self.url} at {self._bucket.server} breaks off sending {key}"
                        ) from error
                else:
                    break  # the server has sent all it has
            if done < len(view):
                raise self._too_short(key, start, len(view))

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        with self._bucket.errors(f"read {key}", key):
            try:
                reply = self._bucket.client.get_object(**self._bucket.address(key), Range=f"bytes=0-{length - 1}")
            except ClientError as error:
                if code_of(error) not in _BEYOND_END:
                    raise
                return ObjectInfo(key, 0), b""
        size = int(reply["ContentRange"].rpartition("/")[2])
        info = ObjectInfo(key, size, reply["Metadata"].get("sha256"))
        try:
            return info, reply["Body"].read()
        except (BotoCoreError, HTTPError, OSError):  # the connection broke: `read_range` can resume
            return info, self.read_range(key, 0, min(length, size))
        finally:
            reply["Body"].close()

    def _stream(self, key: str, start: int, view: memoryview) -> Iterator[int]:
        """Fill `view` in small steps and yield the size of each."""
        wanted = f"bytes={start}-{start + len(view) - 1}"
        try:
            response = self._bucket.client.get_object(**self._bucket.address(key), Range=wanted)
        except ClientError as error:
            if code_of(error) not in _BEYOND_END:
                raise
            raise self._too_short(key, start, len(view)) from error
        body, done = response["Body"], 0
        try:
            length = min(response["ContentLength"], len(view))
            while done < length:
                step = view[done : min(done + READ_STEP_BYTES, length)]
                count = body.readinto(step)  # type: ignore[arg-type]  # the stub knows files only
                if count == 0:
                    raise _ConnectionBroken
                done += count
                yield count
        except (BotoCoreError, HTTPError, OSError) as error:
            raise _ConnectionBroken from error
        finally:
            body.close()

    def _too_short(self, key: str, start: int, length: int) -> CorruptObject:
        found = self._bucket.find(key)
        return CorruptObject(
            f"object {key} in {self.url} holds {found.size if found else 0} bytes; "
            f"bytes {start} to {start + length} were expected"
        )
