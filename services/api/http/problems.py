"""Every error that the API answers with. `problem_documents` turns an error into JSON.

Problem
├── BadRequest              400
├── Unauthorized            401
├── Forbidden               403
├── NotFound                404
├── MethodNotAllowed        405
├── Conflict                409
│   ├── NameTaken
│   ├── NoSnapshots
│   ├── NotFinished
│   ├── RetentionRefused
│   ├── SnapshotsGone
│   ├── BeingDeleted
│   ├── NotOpen
│   ├── WillBeDeleted
│   └── DeletionRefused
├── Gone                    410
├── TooLarge                413
├── UnsupportedMediaType    415
├── RangeNotSatisfiable     416
├── Invalid                 422
├── KeyReused               422
├── Internal                500
├── Damaged                 500
├── Unavailable             503
└── Busy                    503

A new problem is a class here, and a line of this tree. Its docstring is its line in the table of docs/api.md, which
`python -m tests.api.record --render` writes. An endpoint names in `responses=problem_responses(...)` the problems that
are its own; those that many endpoints share are added to the OpenAPI document by `openapi`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Place = Literal["body", "query", "path", "header"]


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its place, its dotted path (empty: the whole body), and a sentence that starts with the path."""

    place: Place
    field: str
    detail: str


class Problem(Exception):
    """Base of all errors that the API answers with.

    `status` is the HTTP status, `kind` the last part of the JSON's `type`, `title` the same for every problem of the
    kind, and `detail` one sentence for the user.
    """

    status: ClassVar[int]
    kind: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors: tuple[FieldError, ...] = ()


class BadRequest(Problem):
    """The body cannot be read at all: it is no JSON, no object, not UTF-8, nested too deeply, or of two lengths."""

    status, kind, title = 400, "bad-request", "The request cannot be read"


class Unauthorized(Problem):
    """The bearer token is missing or wrong."""

    status, kind, title = 401, "unauthorized", "A valid bearer token is needed"


class Forbidden(Problem):
    """Without an `api_token`: the `Host` is not this machine, or a web page of another site sent the request."""

    status, kind, title = 403, "forbidden", "The request may come from a foreign web page"


class NotFound(Problem):
    """No such path, run, job, snapshot, reconstruction, basis, evaluation, sweep, search, sample or model."""

    status, kind, title = 404, "not-found", "There is no such resource"


class MethodNotAllowed(Problem):
    """The path has other methods; `Allow` lists them."""

    status, kind, title = 405, "method-not-allowed", "The path does not have this method"


class Conflict(Problem):
    """The request does not fit the present state."""

    status, kind, title = 409, "conflict", "The request does not fit the present state"


class NameTaken(Conflict):
    """Another run has this name."""

    kind, title = "name-taken", "The name is taken"


class NoSnapshots(Conflict):
    """The run has not written a snapshot yet."""

    kind, title = "no-snapshots", "The run has no snapshots yet"


class NotFinished(Conflict):
    """The requested result, or one that the request builds on, is not finished or has failed."""

    kind, title = "not-finished", "The work is not finished"


class RetentionRefused(Conflict):
    """The policy would make reconstructions much worse; the sentence has the figures. `force` applies it anyway."""

    kind, title = "retention-refused", "The policy is refused unless forced"


class SnapshotsGone(Conflict):
    """Retention retired snapshots while work on them was planned; ask again."""

    kind, title = "snapshots-gone", "Planned snapshots were retired meanwhile"


class BeingDeleted(Conflict):
    """Retention has retired this very snapshot and not deleted it yet; try again when its job has ended."""

    kind, title = "being-deleted", "The snapshot is being deleted"


class NotOpen(Conflict):
    """The run takes no snapshots from outside: phema trains it, or it has ended."""

    kind, title = "run-not-open", "The run takes no snapshots"


class WillBeDeleted(Conflict):
    """A user has asked to delete the run, so that it takes no new work; restore it first."""

    kind, title = "run-will-be-deleted", "The run will be deleted"


class DeletionRefused(Conflict):
    """The run still trains or something else needs it; or its deletion has begun, so that it cannot be restored."""

    kind, title = "deletion-refused", "The run cannot be deleted or restored now"


class Gone(Problem):
    """The run was deleted. The sentence says when."""

    status, kind, title = 410, "run-deleted", "The run was deleted"


class TooLarge(Problem):
    """The body is longer than 1 MiB."""

    status, kind, title = 413, "too-large", "The body is too large"


class UnsupportedMediaType(Problem):
    """The body is not declared as `application/json`."""

    status, kind, title = 415, "unsupported-media-type", "The body must be declared as JSON"


class RangeNotSatisfiable(Problem):
    """The `Range` starts after the end of the file."""

    status, kind, title = 416, "range-not-satisfiable", "The range is outside the file"


class Invalid(Problem):
    """One or more fields are wrong; `errors` lists them."""

    status, kind, title = 422, "invalid", "A field is wrong"

    MOST_SHOWN: ClassVar[int] = 20

    def __init__(self, errors: Sequence[FieldError]) -> None:
        """`errors` must not be empty; the detail joins their sentences."""
        shown, rest = tuple(errors[: self.MOST_SHOWN]), errors[self.MOST_SHOWN :]
        more = [f"and {len(rest)} more"] if rest else []
        super().__init__("; ".join([*(error.detail for error in shown), *more]))
        self.errors = shown

    @classmethod
    def of(cls, field: str, detail: str, *, place: Place = "body") -> Invalid:
        """The problem of one wrong field."""
        return cls([FieldError(place, field, detail)])


class KeyReused(Problem):
    """The Idempotency-Key belongs to another request."""

    status, kind, title = 422, "key-reused", "The Idempotency-Key belongs to another request"


class Internal(Problem):
    """A fault of phema; its log has the details."""

    status, kind, title = 500, "internal", "phema failed"


class Damaged(Problem):
    """A stored file is missing or truncated."""

    status, kind, title = 500, "damaged-object", "A stored object is damaged"


class Unavailable(Problem):
    """The catalog or the store cannot be used; `Retry-After` says when to try again."""

    status, kind, title = 503, "unavailable", "Catalog or store cannot be used"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "5"})


class Busy(Problem):
    """Too many plans are waiting to be computed; `Retry-After` says when to try again."""

    status, kind, title = 503, "busy", "Too many plans are waiting"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "5"})


def all_problems() -> list[type[Problem]]:
    """Every class of the tree except the base, in the order of the tree."""
    found: list[type[Problem]] = []
    waiting = list(Problem.__subclasses__())
    while waiting:
        cls = waiting.pop(0)
        found.append(cls)
        waiting = cls.__subclasses__() + waiting
    return found
