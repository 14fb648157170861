"""Stored objects to users: a redirect to S3, or a ranged stream from the local folder.

With S3 the API looks an object's size up and signs a URL; its bytes never pass through this process. The local folder
has nobody else to serve it, so there the API does, with ranges, so that a broken download goes on where it stopped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from phema.services.api.http.errors import Damaged, RangeNotSatisfiable
from phema.shared.snapshots.stores.interface import ObjectStore

CHUNK_BYTES = 2**20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class Download:
    """An object as the catalog knows it."""

    key: str
    size: int
    sha256: str | None
    filename: str
    media_type: str
    inline: bool = False


def respond(request: Request, store: ObjectStore, download: Download, *, url_seconds: int) -> Response:
    """200 or 206 with bytes from a local folder, 307 to a presigned URL on S3; 304, 416 as HTTP has them.

    HEAD answers 200 with the headers in both cases, because a URL signed for GET refuses it.
    Raises Damaged when the object is missing or its size is not the recorded one, before a byte is sent.
    """
    _check_size(store, download)
    headers = _headers(download)
    path = store.local_path(download.key)
    if path is None and request.method == "GET":
        url = store.presigned_get(download.key, filename=download.filename, expires_s=url_seconds)
        assert url is not None, "a store without files presigns"
        return RedirectResponse(url, 307, {**_without_length(headers), "Cache-Control": "no-store"})
    if _unchanged(request, headers):
        return Response(status_code=304, headers=_without_length(headers))
    if path is None or request.method == "HEAD":
        return Response(headers=headers, media_type=download.media_type)
    return _stream(path, _wanted(request, download.size, headers), download, headers)


def _check_size(store: ObjectStore, download: Download) -> None:
    info = store.head(download.key)
    if info is None:
        raise Damaged(f"object {download.key} of {download.filename} is missing from the store")
    if info.size != download.size:
        raise Damaged(
            f"object {download.key} of {download.filename} holds {info.size} bytes where {download.size} were written"
        )


def _headers(download: Download) -> dict[str, str]:
    disposition = "inline" if download.inline else "attachment"
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(download.size),
        "Content-Disposition": f'{disposition}; filename="{quote(download.filename, safe="")}"',
        "X-Content-Type-Options": "nosniff",
    }
    if download.sha256 is not None:
        headers["ETag"] = f'"{download.sha256}"'
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(download.sha256)).decode()}:"
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return headers


def _without_length(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Content-Length"}


def _unchanged(request: Request, headers: dict[str, str]) -> bool:
    """If-None-Match names the object the client already has."""
    given = request.headers.get("if-none-match", "")
    etags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return "ETag" in headers and ("*" in etags or headers["ETag"] in etags)


def _wanted(request: Request, size: int, headers: dict[str, str]) -> range | None:
    """The bytes a Range header asks for; None for all. Ranges that are malformed or many are ignored, as HTTP allows.

    Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or request.headers.get("if-range", headers.get("ETag")) != headers.get("ETag"):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    else:
        start, stop = max(size - int(last), 0), size
    if start >= stop:
        raise RangeNotSatisfiable(
            f"the header Range {request.headers['range']} starts behind the end; the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return range(start, stop)


def _stream(path: Path, wanted: range | None, download: Download, headers: dict[str, str]) -> Response:
    part = wanted if wanted is not None else range(download.size)
    headers = {**headers, "Content-Length": str(len(part))}
    if wanted is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{download.size}"
    return _FileStream(path, part, 206 if wanted is not None else 200, headers, download.media_type)


class _FileStream(StreamingResponse):
    """Part of a file; closed when the client has it or has gone, not when memory is next tidied."""

    def __init__(self, path: Path, part: range, status: int, headers: dict[str, str], media_type: str) -> None:
        self._path, self._part = path, part
        self._file: BinaryIO | None = None
        super().__init__(self._chunks(), status, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._file = await run_in_threadpool(self._path.open, "rb")
        except FileNotFoundError as error:
            raise Damaged(f"object {self._path.name} has vanished from the store") from error
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()

    def _chunks(self) -> Iterator[bytes]:
        assert self._file is not None
        self._file.seek(self._part.start)
        left = len(self._part)
        while left:
            chunk = self._file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise OSError(f"{self._path} ended {left} bytes early")
            left -= len(chunk)
            yield chunk


def documented(media_type: str) -> dict[int | str, dict[str, object]]:
    """The `responses=` of a download endpoint."""
    binary = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The file (local store).", "content": binary, "headers": _described()},
        206: {
            "description": "The part that `Range` asked for (local store).",
            "content": binary,
            "headers": _described()
            | {"Content-Range": {"schema": {"type": "string"}, "description": "Which part, and the size of the file."}},
        },
        304: {"description": "`If-None-Match` named the file."},
        307: {
            "description": "S3: `Location` is a presigned URL that serves the file, ranges included.",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
    }


def _described() -> dict[str, dict[str, object]]:
    return {
        "ETag": {"schema": {"type": "string"}, "description": "SHA-256 of the whole file, in quotes."},
        "Content-Disposition": {"schema": {"type": "string"}, "description": "A file name."},
        "Accept-Ranges": {"schema": {"type": "string"}, "description": "`bytes`"},
    }
