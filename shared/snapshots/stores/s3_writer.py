"""An S3 object that is written in pieces: a multipart upload, or one request when it stays small."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import ClientError

from phema.shared.snapshots.errors import SnapshotError
from phema.shared.snapshots.stores.s3_errors import code_of, is_precondition, translated
from phema.shared.snapshots.stores.store import Data, ObjectInfo

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from phema.shared.snapshots.stores.s3 import S3Store


class S3Writer:
    """Holds one part in memory. Nothing is visible before the upload is completed, whatever happens to the process.

    A process that is killed leaves an unfinished multipart upload, which only costs room: buckets should have a
    lifecycle rule that aborts those after some days.
    """

    PART_BYTES = 5 * 2**20
    """The smallest part S3 allows: 10,000 of them are 52 GB."""

    def __init__(self, store: S3Store, key: str, metadata: dict[str, str]) -> None:
        self._store, self._key, self._metadata = store, key, metadata
        self._bucket, self._name = store.bucket, store.prefix + key
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
        with translated(self._store, f"write {self._key}"):
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
            reply = self._store.client.create_multipart_upload(
                Bucket=self._bucket, Key=self._name, Metadata=self._metadata
            )
            self._upload_id = reply["UploadId"]

    def upload(self, number: int, body: bytes | bytearray) -> CompletedPartTypeDef:
        """Send one part; the server refuses it when its MD5 differs. Safe to call from several threads."""
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        self._md5s[number] = md5
        reply = self._store.client.upload_part(
            Bucket=self._bucket,
            Key=self._name,
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
                with translated(self._store, f"write {self._key}"):
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
            taken = self._store._head(self._key) is not None
            metadata = {"sha256": info.sha256 or ""}
            accept = self._store.accept_equal
            self._info = accept(info) if taken else self._store.put_single(info, self._buffer, metadata)
            return
        if self._filled:
            self.parts.append(self.upload(len(self.parts) + 1, self._buffer))
        self.finish_with(info)

    def finish_with(self, info: ObjectInfo) -> None:
        """Complete the upload unless the key was taken meanwhile, then verify what the server assembled."""
        if self._store._head(self._key) is not None or not self.complete():
            self._info = self._store.accept_equal(info)
            self._abort()
            return
        self._upload_id = None
        md5s = b"".join(self._md5s[part["PartNumber"]] for part in self.parts)
        etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(self.parts)}"
        self._info = self._store.confirm(info, etag)

    def complete(self) -> bool:
        """Give the parts the object's name; False when the key is taken or the upload has ended, as it has when an
        earlier try of this request succeeded."""
        try:
            self._store.conditionally(
                self._store.client.complete_multipart_upload,
                Bucket=self._bucket,
                Key=self._name,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self.parts},
            )
        except ClientError as error:
            if not is_precondition(error) and code_of(error) != "NoSuchUpload":
                raise
            return False
        return True

    def _give_up(self, error: BaseException) -> None:
        """Keep nothing."""
        self._abort()

    def _abort(self) -> None:
        """Give back what the parts occupy. The error that led here matters more than one of this request."""
        if self._upload_id is None:
            return
        with suppress(SnapshotError), translated(self._store, f"abort the upload of {self._key}"):
            self._store.client.abort_multipart_upload(Bucket=self._bucket, Key=self._name, UploadId=self._upload_id)
        self._upload_id = None
