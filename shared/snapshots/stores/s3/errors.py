"""Translates errors of boto3 and of S3 servers into SnapshotError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from phema.shared.snapshots.errors import (
    BucketMissing,
    CorruptObject,
    ObjectExists,
    ObjectMissing,
    SnapshotError,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
)

_MISSING = {"NoSuchKey", "404", "NotFound"}
_PRECONDITION = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "401",
    "403",
}
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507"}
_CORRUPT = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "InvalidPart", "IncompleteBody"}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


class Bucket(Protocol):
    """What error messages say about a bucket."""

    name: str
    url: str
    server: str


def code_of(error: ClientError) -> str:
    """S3's name of the error, such as NoSuchKey, or the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    return code_of(error) in _MISSING


def is_precondition(error: ClientError) -> bool:
    return code_of(error) in _PRECONDITION


@contextmanager
def translated(bucket: Bucket, action: str, key: str = "") -> Iterator[None]:
    """Turn boto3's errors into SnapshotError. Set `key` where it is an error that this object does not exist."""
    try:
        yield
    except ClientError as error:
        raise _translate(bucket, action, key, error) from error
    except _NO_CREDENTIALS as error:
        raise StoreDenied(
            f"store {bucket.url} at {bucket.server} needs credentials and none are set: {error}"
        ) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise StoreUnreachable(f"store {bucket.url} at {bucket.server} did not answer: could not {action}") from error


def _place(bucket: Bucket) -> str:
    return f"store {bucket.url} at {bucket.server}"


def _translate(bucket: Bucket, action: str, key: str, error: ClientError) -> SnapshotError:
    code = code_of(error)
    answer = f"could not {action}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    place = _place(bucket)
    if code == "NoSuchBucket":
        return BucketMissing(
            f"bucket {bucket.name} does not exist at {bucket.server}: create it, or correct the store's url"
        )
    if code in _MISSING and key:
        return ObjectMissing(f"object {key} does not exist in {bucket.url}")
    if code in _DENIED:
        return StoreDenied(f"{place} refuses these credentials: {answer}", code)
    if code in _FULL:
        return StoreFull(f"{place} is full: {answer}; nothing was kept")
    if code in _CORRUPT:
        return CorruptObject(f"{place} received other bytes than were sent: {answer}")
    if code in _PRECONDITION:
        return ObjectExists(f"{place} {answer}")
    return StoreUnreachable(f"{place} {answer}")
