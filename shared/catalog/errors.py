"""The errors of the catalog.

    CatalogError
    ├── CatalogUnreachable    no database behind the URL, or it cannot be written now (down, locked, read-only, full)
    ├── SchemaOutOfDate       the tables are not those of this version of phema
    ├── NotFound              no such row (also a LookupError)
    ├── NameTaken             another run has this name (also a ValueError)
    ├── BadCursor             a pagination cursor that is not valid (also a ValueError)
    ├── BeingDeleted          an earlier object with the same key is being deleted; try again in a minute
    └── LeaseLost             the caller's attempt no longer holds its job and must drop its results

Every message is one sentence for users and contains no password.
"""

from __future__ import annotations


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
    """No row of that kind has that id."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"There is no {what} {key!r}.")
        self.what = what
        self.key = key


class NameTaken(CatalogError, ValueError):
    """Another run has this name; run names are unique."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name {name!r} is taken by another run; choose a name that is not in use.")
        self.name = name


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
