"""`python -m tests.trainer.mortal FOLDER JOB FENCE PHASE`: trains, and kills itself in the given phase.

Phases: `stored-N` (object N is stored, its row is not written), `delete` (the row of an old checkpoint is gone, its
object is not), `deleted` (the object is gone, too).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.local_training import train_attempt
from phema.shared.snapshots import ObjectInfo
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.trainer.support import new_catalog


class Deadly(LocalStore):
    """A folder whose process kills itself in one phase of its use."""

    def __init__(self, root: Path, phase: str) -> None:
        super().__init__(root)
        self.phase, self.stored = phase, 0

    def _die_in(self, phase: str) -> None:
        if phase == self.phase:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, key: str, data: Any) -> ObjectInfo:
        info = super().put(key, data)
        self._die_in(f"stored-{self.stored}")
        self.stored += 1
        return info

    def delete(self, key: str) -> None:
        self._die_in("delete")
        super().delete(key)
        self._die_in("deleted")


if __name__ == "__main__":
    folder, job, fence, phase = sys.argv[1:]
    catalog = new_catalog(Path(folder))
    train_attempt(load_attempt(catalog, job, int(fence)), catalog, Deadly(Path(folder) / "store", phase))
