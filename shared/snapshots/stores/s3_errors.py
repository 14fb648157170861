"""What an S3 server or the way to it said, as this room's errors."""

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


class Store(Protocol):
    """What the sentences need to know of a store."""

    bucket: str
    url: str
    where: str


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    return code_of(error) in _MISSING


def is_precondition(error: ClientError) -> bool:
    return code_of(error) in _PRECONDITION


@contextmanager
def translated(store: Store, action: str, key: str = "") -> Iterator[None]:
    """Turn what boto3 raises into this room's errors; `key` is set where its absence is a mistake."""
    try:
        yield
    except ClientError as error:
        raise _translate(store, action, key, error) from error
    except _NO_CREDENTIALS as error:
        raise StoreDenied(f"store {store.url} at {store.where} needs credentials and none are set: {error}") from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise StoreUnreachable(f"store {store.url} at {store.where} did not answer: could not {action}") from error


def _translate(store: Store, action: str, key: str, error: ClientError) -> SnapshotError:
    code = code_of(error)
    said = f"could not {action}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    where = f"store {store.url} at {store.where}"
    if code == "NoSuchBucket":
        return BucketMissing(
            f"bucket {store.bucket} does not exist at {store.where}: create it, or correct the store's url"
        )
    if code in _MISSING and key:
        return ObjectMissing(f"object {key} does not exist in {store.url}")
    if code in _DENIED:
        return StoreDenied(f"{where} refuses these credentials: {said}")
    if code in _FULL:
        return StoreFull(f"{where} is full: {said}; nothing was kept")
    if code in _CORRUPT:
        return CorruptObject(f"{where} received other bytes than were sent: {said}")
    if code in _PRECONDITION:
        return ObjectExists(f"{where} {said}")
    return StoreUnreachable(f"{where} {said}")
