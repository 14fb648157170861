"""An S3 object that a later process continues if the process that writes it is killed. Uploaded parts are durable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from botocore.exceptions import ClientError

from phema.shared.snapshots.errors import CorruptObject, ObjectExists, StoreFull, StoreUnreachable
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.errors import code_of
from phema.shared.snapshots.stores.s3.reader import S3Reader
from phema.shared.snapshots.stores.s3.unfinished_uploads import abort
from phema.shared.snapshots.stores.s3.writer import S3Writer
from phema.shared.snapshots.stores.verification import digest

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


@dataclass(frozen=True)
class _UnfinishedUpload:
    """A multipart upload and its first parts: those without a gap before them, all of the full size."""

    upload_id: str
    parts: tuple[CompletedPartTypeDef, ...]


class ResumableS3Writer(S3Writer):
    """Continues the key's unfinished upload that has the most parts.

    Every object is a multipart upload, however small. The server publishes an upload only if nobody has aborted it, in
    one step: a writer whose object was given up (`forget`) publishes nothing.

    Parts of earlier processes are not read again: the server verified them when they were sent. Their SHA-256 is not
    known here, so the completed object is read once to compute it.
    """

    def __init__(self, bucket: S3Bucket, key: str) -> None:
        super().__init__(bucket, key, {})
        self.position = 0

    def __enter__(self) -> Self:
        with self._bucket.errors(f"write {self._key}"):
            uploads = [
                _unfinished(self._bucket, self._key, upload_id) for upload_id in _upload_ids(self._bucket, self._key)
            ]
        if uploads:
            chosen = max(uploads, key=lambda upload: len(upload.parts))
            self._upload_id = chosen.upload_id
            self.parts = list(chosen.parts)
            self.position = self._size = len(self.parts) * self.PART_BYTES
        else:
            with self._bucket.errors(f"write {self._key}"):
                self.begin()
        return self

    def finish_with(self, info: ObjectInfo) -> None:
        if not self.position:
            super().finish_with(info)
            forget(self._bucket, self._key)
            return
        reader = S3Reader(self._bucket)
        if not self.complete() and reader.head(self._key) is None:
            raise StoreUnreachable(
                f"the upload of {self._key} to {self._bucket.url} was aborted by another process while it was "
                "written; try again later"
            )
        found = digest(reader, self._key)
        if found.size != info.size:
            raise ObjectExists(f"object {self._key} already exists in {self._bucket.url} with other bytes")
        self._upload_id, self._info = None, found
        forget(self._bucket, self._key)

    def _give_up(self, error: BaseException) -> None:
        """Keep the parts, unless the server is full or holds other bytes than were sent."""
        if isinstance(error, StoreFull | CorruptObject):
            self._abort()


def forget(bucket: S3Bucket, key: str) -> None:
    """Abort every unfinished upload of the key. A writer that is still at work fails at its next part."""
    for upload_id in list(_upload_ids(bucket, key)):
        abort(bucket, bucket.prefix + key, upload_id)


def _upload_ids(bucket: S3Bucket, key: str) -> Iterator[str]:
    name = bucket.prefix + key
    for page in bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=name):
        yield from (upload["UploadId"] for upload in page.get("Uploads", []) if upload["Key"] == name)


def _unfinished(bucket: S3Bucket, key: str, upload_id: str) -> _UnfinishedUpload:
    parts: list[CompletedPartTypeDef] = []
    pages = bucket.client.get_paginator("list_parts").paginate(**bucket.address(key), UploadId=upload_id)
    try:
        for part in (part for page in pages for part in page.get("Parts", [])):
            if part["PartNumber"] != len(parts) + 1 or part["Size"] != ResumableS3Writer.PART_BYTES:
                break
            parts.append({"PartNumber": part["PartNumber"], "ETag": part["ETag"]})
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":  # it has ended since it was listed
            raise
    return _UnfinishedUpload(upload_id, tuple(parts))
