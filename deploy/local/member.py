"""A process of the topology while it runs: whether it can be used, and how it is ended."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

from deploy.local.process import CannotRun, Check, Process
from phema.local_service.processes import spawn, stop, tail

CONTAINER = Path(__file__).with_name("container.py")
CHECK_SECONDS = 0.5
"""Pause between two checks while a service starts, or twice what the last one took: some are programs of weight that
would slow the start down. Compose's intervals are for the time after."""
RESTART_SECONDS = 1.0


class Member:
    """One thread's: processes die with the thread that started them."""

    def __init__(self, process: Process, log: Path, *, run: Path) -> None:
        self.process = process
        self.log = log
        self.ready = False
        self.restarts = 0
        self._pid_file = run / f"{process.name}.pid"
        self._child: subprocess.Popen[bytes] | None = None
        self._check: subprocess.Popen[bytes] | None = None
        self._started = self._next_check = self._check_began = self._check_ends = 0.0
        self._deadline: float | None = None

    @property
    def started(self) -> bool:
        return self._child is not None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the service's own process."""
        text = self._pid_file.read_text() if self.alive and self._pid_file.exists() else ""
        return int(text) if text else None

    def start(self) -> None:
        """Raises CannotRun when what its image would prepare cannot be."""
        for folder in (self.process.folder, self.process.scratch, self.process.volume, self._pid_file.parent):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.process.setup is not None:
            self.process.setup()
        self._pid_file.unlink(missing_ok=True)
        self._child = spawn(
            [
                *(sys.executable, "-S", str(CONTAINER), str(self._pid_file)),
                *(self.process.stop_signal, f"{self.process.grace:g}", *self.process.command),
            ],
            log=self.log,
            env=self.process.environment,
            cwd=self.process.folder,
            inherit=False,
        )
        self._started = time.monotonic()
        self._next_check = 0.0
        if self._deadline is None:
            self._deadline = self._started + (self.process.check.start if self.process.check else 0.0)

    def look(self) -> None:
        """Find out whether it can be used, and start it again when it has died.

        Raises CannotRun when it was not healthy in time; one that was may take as long as it likes the next time.
        """
        assert self._child is not None
        if self.process.once:
            code = self._child.poll()
            if code:
                raise CannotRun(f"{self.process.name} exited with code {code}: {tail(self.log, 1)}")
            self.ready = code == 0
        elif not self.alive:
            self._again(self._child.returncode)
        elif not self.ready:
            self._look_whether_it_is_healthy()

    def _again(self, code: int) -> None:
        """As compose's `restart: unless-stopped`."""
        self._end_check()
        self.ready = False
        if self._late:
            raise CannotRun(f"{self.process.name} exited with code {code}: {tail(self.log, 1)}")
        if time.monotonic() - self._started > RESTART_SECONDS:
            self.restarts += 1
            self.start()

    def _look_whether_it_is_healthy(self) -> None:
        check, now = self.process.check, time.monotonic()
        if check is None:
            self.ready = True
        elif self._check is not None:
            self._look_at_check(self._check, check, now)
        elif now >= self._next_check:
            self._check = spawn(
                check.command, log=self._check_log, env=self.process.environment, cwd=self.process.folder, inherit=False
            )
            self._check_began, self._check_ends = now, now + check.timeout

    def _look_at_check(self, running: subprocess.Popen[bytes], check: Check, now: float) -> None:
        code = running.poll()
        if code == 0:
            self._check, self.ready, self._deadline = None, True, math.inf
        elif code is not None or now > self._check_ends:
            self._end_check()
            self._next_check = now + max(CHECK_SECONDS, 2 * (now - self._check_began))
            if self._late:
                said = tail(self._check_log, 1)
                raise CannotRun(f"{self.process.name} was not healthy after {check.start:g} s: {said}; log {self.log}")

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    @property
    def _check_log(self) -> Path:
        return self.log.with_suffix(".health.log")

    def _end_check(self) -> None:
        if self._check is not None:
            stop(self._check, grace_s=0)
            self._check = None

    def ask_to_end(self) -> None:
        self._end_check()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def wait(self) -> None:
        """Its container process keeps the grace period of compose, then kills."""
        if self._child is not None:
            self._child.wait()
        self._pid_file.unlink(missing_ok=True)
