"""Downloads of stored objects: a redirect to S3, or the file from the local folder.

With S3, the API looks up the size of an object and signs a URL; the bytes never pass through this process (law 5). No
other server serves the local folder, so the API sends these files itself. It supports ranges, so that a client can
continue a broken download.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fastapi import Request
from starlette import responses
from starlette.responses import FileResponse, RedirectResponse, Response

from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Damaged, RangeNotSatisfiable
from phema.shared.snapshots.stores.interface import ObjectStore

CHUNK_BYTES = 2**20
_ONE_RANGE = re.compile(r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Download:
    """An object as the catalog describes it. `sha256` is hexadecimal; `inline` files open in a browser."""

    key: str
    size: int
    sha256: str | None
    filename: str
    media_type: str
    inline: bool = False


def respond(request: Request, store: ObjectStore, download: Download, *, url_seconds: int) -> Response:
    """200 or 206 with bytes from a local folder, 307 to a presigned URL on S3; 304 and 416 as in RFC 9110.

    HEAD gets 200 with the headers in both cases: a URL signed for GET refuses HEAD.
    Raises Damaged when the object is missing or its size is not the recorded one, before any byte is sent.
    """
    _check_size(store, download)
    headers = _headers(download)
    path = store.local_path(download.key)
    if path is None and request.method == "GET":
        url = store.presigned_get(download.key, filename=download.filename, expires_s=url_seconds)
        assert url is not None, "a store without local files signs URLs"
        return RedirectResponse(url, 307, {**headers, "Cache-Control": "no-store"})
    if _client_has_it(request, headers):
        return Response(status_code=304, headers=headers)
    if path is None:
        return Response(headers={**headers, "Content-Length": str(download.size)}, media_type=download.media_type)
    file = _LocalFile(path, headers=headers, media_type=download.media_type, stat_result=_stat(path, download))
    # Starlette applies ranges to HEAD too; RFC 9110 defines them for GET only.
    return Response(headers=file.headers) if request.method == "HEAD" else file


class _LocalFile(FileResponse):
    """Starlette's file response, with three differences that the API's contract needs.

    - A range after the end of the file is a problem document; Starlette answers in plain text.
    - A malformed Range header is ignored, as RFC 9110 allows; Starlette answers 400.
    - A header with several ranges is ignored too, so that no client needs to parse multipart answers.
    """

    chunk_size = CHUNK_BYTES

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """At most one pair (start, stop) in bytes; an empty list stands for the whole file."""
        header = http_range.replace(" ", "")
        if _ONE_RANGE.fullmatch(header) is None:
            return []
        try:
            return super()._parse_range_header(header, file_size)
        except responses.MalformedRangeHeader:
            return []
        except responses.RangeNotSatisfiable as error:
            raise RangeNotSatisfiable(
                f"the header Range {http_range} starts after the end of the file, which has {file_size} bytes",
                headers={"Content-Range": f"bytes */{file_size}"},
            ) from error


def _check_size(store: ObjectStore, download: Download) -> None:
    info = store.head(download.key)
    if info is None:
        raise _missing(download)
    if info.size != download.size:
        raise Damaged(
            f"object {download.key} of {download.filename} holds {info.size} bytes where {download.size} were written"
        )


def _stat(path: Path, download: Download) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise _missing(download) from error


def _missing(download: Download) -> Damaged:
    return Damaged(f"object {download.key} of {download.filename} is missing from the store")


def _headers(download: Download) -> dict[str, str]:
    """All but Content-Length, which depends on the answer."""
    disposition = "inline" if download.inline else "attachment"
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'{disposition}; filename="{quote(download.filename, safe="")}"',
        "X-Content-Type-Options": "nosniff",
    }
    if download.sha256 is not None:
        headers["ETag"] = f'"{download.sha256}"'
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(download.sha256)).decode()}:"
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return headers


def _client_has_it(request: Request, headers: dict[str, str]) -> bool:
    """Whether If-None-Match names the object."""
    given = request.headers.get("if-none-match", "")
    etags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return "ETag" in headers and ("*" in etags or headers["ETag"] in etags)


def file_responses(media_type: str) -> dict[int | str, dict[str, object]]:
    """The `responses=` of a download endpoint."""
    binary = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The file (local store).", "content": binary, "headers": _described_headers()},
        206: {
            "description": "The part of the file that `Range` names (local store).",
            "content": binary,
            "headers": _described_headers()
            | {
                "Content-Range": {
                    "schema": {"type": "string"},
                    "description": "Position of the part, and size of the file.",
                }
            },
        },
        304: {"description": "`If-None-Match` names the file: the client has it already."},
        307: {
            "description": "S3: `Location` is a presigned URL that serves the file, with ranges.",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
        **problem_responses(RangeNotSatisfiable, Damaged),
    }


def _described_headers() -> dict[str, dict[str, object]]:
    return {
        "ETag": {"schema": {"type": "string"}, "description": "SHA-256 of the whole file, in quotes."},
        "Content-Disposition": {"schema": {"type": "string"}, "description": "A file name."},
        "Accept-Ranges": {"schema": {"type": "string"}, "description": "`bytes`"},
    }
