"""HTTP requests to the API: authentication, errors from problem documents, pagination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
DRAWING_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
PAGE = 100


class Transport:
    """Requests to one API. Thread-safe. Every failure is one of `phema.errors`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidArgument(f"the service's address {url!r} must start with http:// or https://")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self.http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)
        except httpx.InvalidURL as error:
            raise InvalidArgument(f"the service's address {url!r} is not valid: {error}") from error
        except UnicodeEncodeError:
            raise InvalidArgument("the token has a character that is not ASCII; tokens have none") from None

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._answer("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Any:
        return self._answer("POST", path, json=body, headers=headers, params=params or None)

    def delete(self, path: str, **params: Any) -> Any:
        return self._answer("DELETE", path, params={k: v for k, v in params.items() if v is not None})

    def text(self, path: str) -> str:
        """An answer that is text."""
        return self._request("GET", path).text

    def pages(self, path: str, limit: int | None = None, **params: Any) -> Iterator[Any]:
        """The items of a paginated collection, at most `limit`."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.get(path, limit=min(PAGE, left or PAGE), cursor=cursor, **params)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise ServiceError(f"{self.url} answers {path} with something that is no list: is it phema?", 502)
            items, cursor = page["items"], page.get("next_cursor")
            yield from items if left is None else items[:left]
            left = None if left is None else left - len(items)
            if cursor is None:
                return

    def content(self, path: str, **params: Any) -> bytes:
        """The body of an answer that is no JSON, such as a picture. The service may take its time to draw it."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._request("GET", path, params=given, timeout=DRAWING_TIMEOUT).content

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self.failures():
            try:
                response = self.http.request(method, path, **arguments)
            except (TypeError, ValueError, RecursionError, OverflowError) as error:
                # The JSON encoder's own errors: NaN, or an object that JSON cannot hold.
                raise InvalidArgument(f"the request cannot be written as JSON: {error}") from error
        check(response)
        return response

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn the errors of the HTTP library into those of `phema.errors`."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"the service at {self.url} does not answer in time") from error
        except httpx.TransportError as error:
            raise unreachable(self.url) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise ServiceError(f"the answer of the service at {self.url} cannot be read: {error}", 502) from error
        except RuntimeError as error:
            if not self.http.is_closed:
                raise
            raise InvalidArgument("the client is closed; create another phema.Client") from error

    def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._request(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise ServiceError(
                f"{self.url} answers {path} with something that is not JSON: is it phema?", 502
            ) from error


def route(*parts: str) -> str:
    """Path of a resource. A slash inside a part is escaped."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def listed(answer: Any, field: str) -> list[Any]:
    """The list in a field of an answer. Raises ServiceError if there is none."""
    found = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ServiceError(f"the service's answer has no list {field}: is it phema, of this version?", 502)
    return found


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
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict, 410: NotFound}
    raise kinds.get(status, Refused)(text, status, problem)
