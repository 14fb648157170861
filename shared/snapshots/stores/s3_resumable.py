"""An S3 object that a later process goes on writing where a killed one ended: its parts are what is durable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from botocore.exceptions import ClientError

from phema.shared.snapshots.errors import CorruptObject, ObjectExists, StoreFull, StoreUnreachable
from phema.shared.snapshots.stores.s3_errors import code_of, translated
from phema.shared.snapshots.stores.s3_writer import S3Writer
from phema.shared.snapshots.stores.store import ObjectInfo, digest

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from phema.shared.snapshots.stores.s3 import S3Store


@dataclass(frozen=True)
class _Unfinished:
    """A multipart upload and the parts it has from the first on without a gap, all of the full size."""

    upload_id: str
    parts: tuple[CompletedPartTypeDef, ...]


class ResumableS3Writer(S3Writer):
    """Goes on with the unfinished upload of the key that has the most parts.

    A part is taken as it is: the server checked it when it was sent. Of what earlier processes sent nobody here knows
    the SHA-256, so that the completed object is read once to compute it.
    """

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__(store, key, {})
        self.position = 0

    def __enter__(self) -> Self:
        with translated(self._store, f"write {self._key}"):
            uploads = [_parts_of(self._store, self._key, upload) for upload in _uploads(self._store, self._key)]
        if uploads:
            chosen = max(uploads, key=lambda upload: len(upload.parts))
            self._upload_id = chosen.upload_id
            self.parts = list(chosen.parts)
            self.position = self._size = len(self.parts) * self.PART_BYTES
        return self

    def finish_with(self, info: ObjectInfo) -> None:
        if not self.position:
            super().finish_with(info)
            forget(self._store, self._key)
            return
        if not self.complete() and self._store.head(self._key) is None:
            raise StoreUnreachable(
                f"the upload of {self._key} to {self._store.url} was given up while it was written; try again later"
            )
        found = digest(self._store, self._key)
        if found.size != info.size:
            raise ObjectExists(f"object {self._key} already exists in {self._store.url} with other bytes")
        self._upload_id, self._info = None, found
        forget(self._store, self._key)

    def _give_up(self, error: BaseException) -> None:
        """What the server has is kept, unless it is full or says that it has something else."""
        if isinstance(error, StoreFull | CorruptObject):
            self._abort()


def forget(store: S3Store, key: str) -> None:
    """Abort every unfinished upload of the key; a writer that is still at work fails at its next part."""
    for upload_id in list(_uploads(store, key)):
        try:
            store.client.abort_multipart_upload(Bucket=store.bucket, Key=store.prefix + key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":  # ended since it was listed
                raise


def _uploads(store: S3Store, key: str) -> Iterator[str]:
    name = store.prefix + key
    for page in store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=name):
        yield from (upload["UploadId"] for upload in page.get("Uploads", []) if upload["Key"] == name)


def _parts_of(store: S3Store, key: str, upload_id: str) -> _Unfinished:
    parts: list[CompletedPartTypeDef] = []
    pages = store.client.get_paginator("list_parts").paginate(
        Bucket=store.bucket, Key=store.prefix + key, UploadId=upload_id
    )
    try:
        for part in (part for page in pages for part in page.get("Parts", [])):
            if part["PartNumber"] != len(parts) + 1 or part["Size"] != ResumableS3Writer.PART_BYTES:
                break
            parts.append({"PartNumber": part["PartNumber"], "ETag": part["ETag"]})
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":  # ended since it was listed
            raise
    return _Unfinished(upload_id, tuple(parts))
