"""Writes an object in pieces: a multipart upload, or one request if the object stays small."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import ClientError

from phema.shared.snapshots.errors import SnapshotError
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.errors import code_of, is_precondition
from phema.shared.snapshots.stores.s3.single_upload import upload_at_once
from phema.shared.snapshots.stores.s3.upload_checks import accept_equal, confirm

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


class S3Writer:
    """Holds one part in memory. Readers see nothing before the upload is completed.

    A killed process leaves an unfinished multipart upload, which occupies space: see `unfinished_uploads`.
    """

    PART_BYTES = 5 * 2**20
    """The smallest part that S3 allows. 10,000 parts, the most that S3 allows, are 52 GB."""

    def __init__(self, bucket: S3Bucket, key: str, metadata: dict[str, str]) -> None:
        self._bucket, self._key, self._metadata = bucket, key, metadata
        self._address = bucket.address(key)
        self._upload_id: str | None = None
        self._buffer, self._filled = bytearray(), 0
        self._sha256, self._size = hashlib.sha256(), 0
        self._md5s: dict[int, bytes] = {}
        self._info: ObjectInfo | None = None
        self.parts: list[CompletedPartTypeDef] = []

    def __enter__(self) -> Self:
        return self

    def write(self, data: Data) -> None:
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self._size += len(view)
        if not self._buffer:
            self._buffer = bytearray(self.PART_BYTES)
        with self._bucket.errors(f"write {self._key}"):
            while len(view):
                count = min(len(view), self.PART_BYTES - self._filled)
                self._buffer[self._filled : self._filled + count] = view[:count]
                self._filled, view = self._filled + count, view[count:]
                if self._filled == self.PART_BYTES:
                    self.begin()
                    self.parts.append(self.upload(len(self.parts) + 1, self._buffer))
                    self._filled = 0

    def begin(self) -> None:
        """Start the multipart upload, once."""
        if self._upload_id is None:
            reply = self._bucket.client.create_multipart_upload(**self._address, Metadata=self._metadata)
            self._upload_id = reply["UploadId"]

    def upload(self, number: int, body: bytes | bytearray) -> CompletedPartTypeDef:
        """Send one part. The server refuses the part if its MD5 differs. Thread-safe."""
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        self._md5s[number] = md5
        reply = self._bucket.client.upload_part(
            **self._address,
            UploadId=self._upload_id or "",
            PartNumber=number,
            Body=body,  # type: ignore[arg-type]  # any buffer is sent as it is, bytes would be copied
            ContentMD5=b64encode(md5).decode(),
        )
        return {"PartNumber": number, "ETag": reply["ETag"]}

    @property
    def info(self) -> ObjectInfo:
        assert self._info is not None, "info is known after the block was left"
        return self._info

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._info is None:
                with self._bucket.errors(f"write {self._key}"):
                    self._commit()
        except BaseException as another:
            self._give_up(another)
            raise
        else:
            if error is not None:
                self._give_up(error)
        finally:
            self._buffer = bytearray()

    def _commit(self) -> None:
        info = ObjectInfo(self._key, self._size, self._sha256.hexdigest())
        del self._buffer[self._filled :]
        if self._upload_id is None:
            taken = self._bucket.find(self._key) is not None
            self._info = accept_equal(self._bucket, info) if taken else upload_at_once(self._bucket, info, self._buffer)
            return
        if self._filled or not self.parts:
            self.parts.append(self.upload(len(self.parts) + 1, self._buffer))
        self.finish_with(info)

    def finish_with(self, info: ObjectInfo) -> None:
        """Complete the upload unless the key was taken meanwhile, then verify what the server has assembled."""
        if self._bucket.find(self._key) is not None or not self.complete():
            self._info = accept_equal(self._bucket, info)
            self._abort()
            return
        self._upload_id = None
        md5s = b"".join(self._md5s[part["PartNumber"]] for part in self.parts)
        etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(self.parts)}"
        self._info = confirm(self._bucket, info, etag)

    def complete(self) -> bool:
        """Turn the parts into the object. Returns False if the key is taken or the upload no longer exists.

        The upload no longer exists if an earlier attempt of the same request succeeded.
        """
        try:
            self._bucket.write_if_absent(
                self._bucket.client.complete_multipart_upload,
                **self._address,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self.parts},
            )
        except ClientError as error:
            if not is_precondition(error) and code_of(error) != "NoSuchUpload":
                raise
            return False
        return True

    def _give_up(self, error: BaseException) -> None:
        """Remove the parts after an error."""
        self._abort()

    def _abort(self) -> None:
        """Free the space of the parts. Errors of this request are ignored: the first error matters more."""
        if self._upload_id is None:
            return
        with suppress(SnapshotError), self._bucket.errors(f"abort the upload of {self._key}"):
            self._bucket.client.abort_multipart_upload(**self._address, UploadId=self._upload_id)
        self._upload_id = None
