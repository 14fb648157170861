"""Downloads from the service: resumed if they stopped, verified, and renamed to the target only when complete."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import httpx

from phema.client.cancellation import check_stopped, pause
from phema.client.transport import TIMEOUT, Transport, check
from phema.errors import DownloadError, InvalidArgument, ServiceError

TRIES_WITHOUT_PROGRESS = 4
PAUSE_SECONDS = 0.25
"""Pause in seconds after a try that received no byte. Each further pause is three times as long."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the size of the file in bytes, which is None while unknown."""


@dataclass(frozen=True)
class RecordedFile:
    """Name, size in bytes and SHA-256 of a file, as the service records them."""

    filename: str
    size: int | None
    sha256: str | None


def fetch(
    transport: Transport,
    path: str,
    destination: Path,
    *,
    hash_required: bool = True,
    on_progress: Progress | None = None,
) -> Path:
    """Download what the API serves at `path` to `destination`, a file or an existing folder; returns the file.

    A hidden `.part` file beside the target receives the bytes. A download that stopped, also in an earlier process,
    resumes from that file. The file is renamed to its target, atomically, once its SHA-256 is the recorded one. If the
    API redirects to a bucket, the bucket does not receive phema's token.

    `hash_required`: refuse a file whose SHA-256 the response does not name. The catalog has no SHA-256 of pictures.

    Raises DownloadError if the checksum is wrong or the download stops for good, and the errors of the API.
    """
    recorded = recorded_file(transport, path)
    if recorded.sha256 is None and hash_required:
        raise DownloadError(
            f"{transport.url} does not name the SHA-256 of {recorded.filename} in the ETag header, so the file cannot "
            "be verified; a proxy between phema and its users must not remove ETag"
        )
    target = (destination / recorded.filename if destination.is_dir() else destination).absolute()
    if not target.parent.is_dir():
        raise InvalidArgument(f"{target.parent} is no folder to download into")
    if recorded.sha256 is not None and target.is_file() and _digest(target) == recorded.sha256:
        return target
    part = target.with_name(f".{target.name}.{(recorded.sha256 or recorded.filename)[:16]}.part")
    try:
        _fill(transport, path, part, recorded, on_progress or (lambda done, total: None))
        if recorded.sha256 is not None and (found := _digest(part)) != recorded.sha256:
            part.unlink()
            raise DownloadError(
                f"{recorded.filename} arrived damaged: SHA-256 {found}, recorded {recorded.sha256}; if this repeats, "
                "the object in the store is damaged: `phema store verify` finds such objects"
            )
        os.replace(part, target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def content(transport: Transport, path: str) -> bytes:
    """The whole file at `path`, not verified: for pictures that are shown at once."""
    with transport.failures(), _open(transport, path, {}) as response:
        return response.read()


def recorded_file(transport: Transport, path: str) -> RecordedFile:
    """Name, size and checksum of the file at `path`, from the headers of the response."""
    with transport.failures():
        answer = transport.http.head(path)
    if answer.status_code >= 400:
        # A response to HEAD has no body. GET returns the error sentence.
        with transport.failures(), _open(transport, path, {}):
            pass
    name = re.search(r'filename="([^"]+)"', answer.headers.get("Content-Disposition", ""))
    digest = re.fullmatch(r'(?:W/)?"([0-9a-f]{64})"', answer.headers.get("ETag", ""))
    length = answer.headers.get("Content-Length", "")
    return RecordedFile(
        filename=Path(unquote(name[1])).name if name else path.split("/")[-2],
        size=int(length) if length.isdigit() else None,
        sha256=digest[1] if digest else None,
    )


def _fill(transport: Transport, path: str, part: Path, recorded: RecordedFile, on_progress: Progress) -> None:
    """Append to `part` until it is complete. Raises DownloadError after several tries in a row without a byte."""
    failures = 0
    while True:
        before = _size(part)
        cause: Exception | None = None
        try:
            total = _append(transport, path, part, recorded.size, on_progress)
        except (httpx.HTTPError, httpx.StreamError) as error:
            cause, total = error, recorded.size
        else:
            if total is None or _size(part) == total:
                return
        if total is not None and _size(part) > total:
            part.unlink()  # It belongs to another file.
        failures = 0 if _size(part) > before else failures + 1
        if failures == TRIES_WITHOUT_PROGRESS:
            raise DownloadError(
                f"{recorded.filename} broke off at {_size(part)} of {total or '?'} bytes; the same command resumes it"
            ) from cause
        if failures:
            pause(PAUSE_SECONDS * 3 ** (failures - 1))


def _append(transport: Transport, path: str, part: Path, size: int | None, on_progress: Progress) -> int | None:
    """One request for the bytes after the end of `part`. Returns the size of the whole object, if known."""
    start = _size(part)
    if start and start == size:
        return size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _open(transport, path, headers) as response:
        total = _total(response) or size
        if response.status_code == 416:
            return total or 0
        if response.status_code != 206:
            start = 0
        with part.open("ab" if start else "wb") as file:
            on_progress(start, total)
            for chunk in response.iter_raw():
                check_stopped()
                file.write(chunk)
                on_progress(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
    return total


@contextmanager
def _open(transport: Transport, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The streamed response with the bytes: from the API, or from the bucket to which the API redirects."""
    answer = transport.http.send(transport.http.build_request("GET", path, headers=headers), stream=True)
    with closing(answer):
        if answer.next_request is None:
            if answer.status_code != 416:
                check(answer)
            yield answer
            return
    # A separate client, without the API's token in its headers.
    url = answer.next_request.url
    with (
        httpx.Client(timeout=TIMEOUT, follow_redirects=True) as bucket,
        bucket.stream("GET", url, headers=headers) as stored,
    ):
        if stored.status_code not in (200, 206, 416):
            host = stored.request.url.netloc.decode()
            sentence = f"the object store at {host} refused the download with status {stored.status_code}"
            raise ServiceError(sentence, stored.status_code)
        yield stored


def _total(response: httpx.Response) -> int | None:
    """Size of the whole object: Z of `Content-Range: bytes X-Y/Z`, or the length of a complete response."""
    if response.status_code == 200:
        text = response.headers.get("Content-Length", "")
    else:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
