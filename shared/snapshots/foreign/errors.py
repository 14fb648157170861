"""The error for files that phema does not read."""

from __future__ import annotations

from phema.shared.snapshots.errors import SnapshotError


class ForeignFileRefused(SnapshotError):
    """A file or folder is refused. One sentence says what was found in it, and what is allowed. No code of it ran."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(f"{name} is refused: {found}")
        self.name = name
        self.found = found
