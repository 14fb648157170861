"""Keeps the logs of Ray's sessions in the state folder; the sessions themselves are folders below /tmp.

`logs/ray/SESSION` holds what Ray, drivers, training workers and actors wrote: the log of training attempt N of a job is
`job-driver-JOB-aN.log`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

KEPT = 20
"""Sessions whose logs are kept."""


class RayLogs:
    """`ray-session` in the state folder is a link to the session that runs, so that a crash loses no logs."""

    def __init__(self, state_dir: Path, logs: Path) -> None:
        self._link, self._kept = state_dir / "ray-session", logs / "ray"

    def begin(self, session_dir: Path) -> None:
        """Note that Ray runs in `session_dir`. Ends the session that a killed process has left."""
        self.end()
        self._link.symlink_to(session_dir)

    def end(self) -> None:
        """Keep the logs of the noted session, if there is one, and delete its folder. Its Ray must have ended."""
        if not self._link.is_symlink():
            return
        session_dir = self._link.readlink()
        # A full disk must not keep the next start from working.
        with contextlib.suppress(OSError, shutil.Error):
            self._keep(session_dir)
        shutil.rmtree(session_dir, ignore_errors=True)
        self._link.unlink()

    def _keep(self, session_dir: Path) -> None:
        self._kept.mkdir(parents=True, exist_ok=True)
        for session in session_dir.glob("session_2*"):
            shutil.copytree(session / "logs", self._kept / session.name, symlinks=True, dirs_exist_ok=True)
        for old in sorted(self._kept.iterdir())[:-KEPT]:
            shutil.rmtree(old)
