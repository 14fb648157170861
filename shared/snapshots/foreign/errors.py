"""What is wrong with a file that somebody else's program wrote."""

from __future__ import annotations

from phema.shared.snapshots.errors import SnapshotError


class ForeignFileRefused(SnapshotError):
    """One sentence: which file or folder, what was found in it, what it would have to hold. Nothing of it was run."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(f"{name} is refused: {found}")
        self.name = name
        self.found = found
