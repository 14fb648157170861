"""HTTP requests to the API: authentication, errors from problem documents, pagination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from phema.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    Refused,
    ServiceError,
    ServiceUnreachable,
    Unauthorized,
)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
PAGE = 100


class Transport:
    """Requests to one API. Thread-safe. Every failure is one of `phema.errors`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidArgument(f"the service's address {url!r} must start with http:// or https://")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._answer("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        return self._answer("POST", path, json=body, headers=headers)

    def pages(self, path: str, limit: int | None = None, **params: Any) -> Iterator[Any]:
        """The items of a paginated collection, at most `limit`."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.get(path, limit=min(PAGE, left or PAGE), cursor=cursor, **params)
            items, cursor = page["items"], page.get("next_cursor")
            yield from items if left is None else items[:left]
            left = None if left is None else left - len(items)
            if cursor is None:
                return

    def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self.http.request(method, path, **arguments)
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"the service at {self.url} does not answer in time") from error
        except httpx.TransportError as error:
            raise unreachable(self.url) from error
        check(response)
        try:
            return response.json()
        except ValueError as error:
            raise ServiceError(
                f"{self.url} answers {path} with something that is not JSON: is it phema?", 502
            ) from error


def route(*parts: str) -> str:
    """Path of a resource. A slash inside a part is escaped."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def unreachable(url: str) -> ServiceUnreachable:
    return ServiceUnreachable(f"no service answers at {url}; start one with `phema up`, or give its address with --url")


def check(response: httpx.Response) -> None:
    """Raise the error of a response with a 4xx or 5xx status. Reads the body of such a response."""
    status = response.status_code
    if status < 400:
        return
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": f"{response.request.url} answered {status}"}
    text = str(problem.get("detail") or problem.get("title") or "the request was refused")
    service = str(response.request.url.copy_with(raw_path=b"/")).rstrip("/")
    if status >= 500:
        raise ServiceError(f"the service at {service} failed: {text}", status, response.headers.get("X-Request-ID"))
    if status in (401, 403):
        text = f"the service at {service} refuses the request: {text}"
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict}
    raise kinds.get(status, Refused)(text, status, problem)
