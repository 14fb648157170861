"""The errors of the catalog.

    CatalogError
    ├── CatalogUnreachable    no database behind the URL, or it cannot be written now (down, locked, read-only, full)
    ├── SchemaOutOfDate       the tables are not those of this version of phema
    ├── NotFound              no such row (also a LookupError)
    │   └── RunDeleted        the run was deleted
    ├── RunToBeDeleted        a user has asked to delete the run, which takes no new work
    ├── NameTaken             another run has this name (also a ValueError)
    ├── WrongState            the state of the run does not allow the change (also a ValueError)
    ├── BadCursor             a pagination cursor that is not valid (also a ValueError)
    ├── BeingDeleted          an earlier object with the same key is being deleted; try again in a minute
    └── LeaseLost             the caller's attempt no longer holds its job and must drop its results

Every message is one sentence for users and contains no password.
"""

from __future__ import annotations

from datetime import UTC, datetime


class CatalogError(Exception):
    """Root of the tree above."""


class CatalogUnreachable(CatalogError):
    """The database cannot be reached, or refuses writes for a reason outside phema."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"The catalog at {where} cannot be used: {reason.strip().rstrip('.')}.")
        self.where = where


class SchemaOutOfDate(CatalogError):
    """The schema is older or newer than the code."""


class NotFound(CatalogError, LookupError):
    """No row of that kind has that id. `similar` is a name that may have been meant."""

    def __init__(self, what: str, key: str, similar: str | None = None) -> None:
        hint = "." if similar is None else f"; did you mean {similar!r}?"
        super().__init__(f"There is no {what} {key!r}{hint}")
        self.what = what
        self.key = key


class RunDeleted(NotFound):
    """The run was deleted. Its jobs and events are still there."""

    def __init__(self, name: str, run_id: str, deleted_at: float) -> None:
        CatalogError.__init__(self, f"Run {name} ({run_id}) was deleted at {_utc(deleted_at)}.")
        self.what, self.key = "run", name


class RunToBeDeleted(CatalogError):
    """A user has asked to delete the run."""

    def __init__(self, name: str, delete_at: float) -> None:
        super().__init__(f"Run {name} will be deleted at {_utc(delete_at)} and takes no new work; restore it first.")
        self.name = name


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class NameTaken(CatalogError, ValueError):
    """Another run has this name; run names are unique."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name {name!r} is taken by another run; choose a name that is not in use.")
        self.name = name


class WrongState(CatalogError, ValueError):
    """The state of the run does not allow the change. Nothing was changed."""


class BadCursor(CatalogError, ValueError):
    """The cursor is not the `next_cursor` of an earlier page. Cursors are opaque."""

    def __init__(self, cursor: str) -> None:
        super().__init__(f"cursor {cursor!r} is not one this service gave out; use next_cursor of the previous page.")
        self.cursor = cursor


class BeingDeleted(CatalogError):
    """An earlier object with the key is being deleted. The key is free again within a minute or so."""

    def __init__(self, key: str) -> None:
        super().__init__(f"Object {key} is being deleted and cannot be written again yet.")
        self.key = key


class LeaseLost(CatalogError):
    """Another attempt holds the job, or the job has ended. Nothing was changed."""

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(f"Attempt {fence} no longer holds job {job_id!r}; its results are dropped.")
        self.job_id = job_id
        self.fence = fence
