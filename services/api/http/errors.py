"""Everything the API refuses or fails with, drawn once; `problems.py` turns each into JSON in one place.

Problem                     `.status`, `.title`, `.detail` (one sentence), `.kind` (the last part of the JSON's `type`)
├── BadRequest              400  the body cannot be read at all
├── Unauthorized            401  no bearer token, or a wrong one
├── NotFound                404  no such resource, or no such path
├── MethodNotAllowed        405
├── Conflict                409  right request, wrong moment
│   ├── NameTaken                another run has the name
│   ├── NoSnapshots              the run has not written a snapshot yet
│   ├── NotFinished              what is asked for, or built on, is not there yet, or never will be
│   ├── RetentionRefused         the policy would ruin what reconstructions need
│   ├── SnapshotsGone            retention gave snapshots up while work on them was planned
│   ├── BeingDeleted             retention has given that very snapshot up, and not deleted it yet
│   └── NotOpen                  the run takes no snapshots from outside: phema trains it, or it has ended
├── TooLarge                413  the body is longer than any request of this API
├── RangeNotSatisfiable     416  the range starts behind the end of the file
├── Invalid                 422  one or more fields are wrong; `.errors` lists each
├── KeyReused               422  the Idempotency-Key came before, with another request
├── Internal                500  a fault of phema; the log has the rest
├── Damaged                 500  a stored object is missing, truncated or otherwise not what the catalog says
└── Unavailable             503  catalog or store cannot be reached or used; try again later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Place = Literal["body", "query", "path", "header"]


@dataclass(frozen=True)
class FieldError:
    """One wrong field: where it is, its dotted path (empty: the whole), and a sentence that starts with it."""

    place: Place
    field: str
    detail: str


class Problem(Exception):
    """Base of all answers that are not what was asked for. `detail` is one sentence for the user."""

    status: ClassVar[int]
    kind: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors: tuple[FieldError, ...] = ()


class BadRequest(Problem):
    status, kind, title = 400, "bad-request", "The request cannot be read"


class Unauthorized(Problem):
    status, kind, title = 401, "unauthorized", "A valid bearer token is needed"


class NotFound(Problem):
    status, kind, title = 404, "not-found", "There is no such thing"


class MethodNotAllowed(Problem):
    status, kind, title = 405, "method-not-allowed", "The path does not have this method"


class Conflict(Problem):
    status, kind, title = 409, "conflict", "The request does not fit the present state"


class NameTaken(Conflict):
    kind, title = "name-taken", "The name is taken"


class NoSnapshots(Conflict):
    kind, title = "no-snapshots", "The run has no snapshots yet"


class NotFinished(Conflict):
    kind, title = "not-finished", "The work is not finished"


class RetentionRefused(Conflict):
    kind, title = "retention-refused", "The policy is refused unless forced"


class SnapshotsGone(Conflict):
    kind, title = "snapshots-gone", "Planned snapshots were given up meanwhile"


class BeingDeleted(Conflict):
    kind, title = "being-deleted", "The snapshot is being deleted"


class NotOpen(Conflict):
    kind, title = "run-not-open", "The run takes no snapshots"


class TooLarge(Problem):
    status, kind, title = 413, "too-large", "The body is too large"


class RangeNotSatisfiable(Problem):
    status, kind, title = 416, "range-not-satisfiable", "The range is outside the file"


class Invalid(Problem):
    """`errors` must not be empty; the detail is their sentences."""

    status, kind, title = 422, "invalid", "A field is wrong"

    MOST_SHOWN: ClassVar[int] = 20

    def __init__(self, errors: Sequence[FieldError]) -> None:
        shown, rest = tuple(errors[: self.MOST_SHOWN]), errors[self.MOST_SHOWN :]
        more = [f"and {len(rest)} more"] if rest else []
        super().__init__("; ".join([*(error.detail for error in shown), *more]))
        self.errors = shown

    @classmethod
    def of(cls, field: str, detail: str, *, place: Place = "body") -> Invalid:
        return cls([FieldError(place, field, detail)])


class KeyReused(Problem):
    status, kind, title = 422, "key-reused", "The Idempotency-Key belongs to another request"


class Internal(Problem):
    status, kind, title = 500, "internal", "phema failed"


class Damaged(Problem):
    status, kind, title = 500, "damaged-object", "A stored object is damaged"


class Unavailable(Problem):
    """Carries Retry-After: the fault is expected to be mended without the caller."""

    status, kind, title = 503, "unavailable", "Catalog or store cannot be used"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "5"})


def all_problems() -> list[type[Problem]]:
    """Every class of the tree, the base excluded."""
    found: list[type[Problem]] = []
    waiting = list(Problem.__subclasses__())
    while waiting:
        cls = waiting.pop(0)
        found.append(cls)
        waiting = cls.__subclasses__() + waiting
    return found
