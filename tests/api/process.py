"""The real service: `python -m phema.services.api` in a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from phema.shared.settings import Settings

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
_LISTENING = re.compile(r"phema api listening on (http://\S+)\n")


class ApiProcess:
    """A started process. `url` is where it listens."""

    def __init__(self, environment: Mapping[str, str], before: str = "") -> None:
        """`before`: Python that the process runs first, to shorten a time."""
        # A file: a pipe that nobody reads is full after some hundred lines of the log, and the API would wait.
        descriptor, name = tempfile.mkstemp()
        self._log: int | None = descriptor
        os.unlink(name)
        program = f"{before}; import runpy; runpy.run_module('phema.services.api', run_name='__main__')"
        self.popen = subprocess.Popen(
            [sys.executable, *(["-c", program] if before else ["-m", "phema.services.api"])],
            env=dict(environment),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], START_SECONDS)
        match = _LISTENING.fullmatch(self.popen.stdout.readline()) if ready else None
        if match is None:
            self.popen.kill()
            self.popen.communicate()
            raise RuntimeError(f"the API did not start:\n{self._logged()}")
        self.url = match[1]

    def kill(self) -> None:
        """SIGKILL, as the kernel sends it when memory runs out."""
        self.popen.kill()
        self.popen.communicate()
        self._logged()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, and what was written after the line that says it listens."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        """Wait until it ends by itself; returns what `stop` returns."""
        out, _ = self.popen.communicate(timeout=START_SECONDS)
        return self.popen.returncode, out, self._logged()

    def _logged(self) -> str:
        """What was written to standard error, the first time that it is asked for."""
        if self._log is None:
            return ""
        descriptor, self._log = self._log, None
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as log:
            log.seek(0)
            return log.read()


def environment(settings: Settings) -> dict[str, str]:
    """The settings as variables, on a free port."""
    given: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        secret = getattr(value, "get_secret_value", None)
        given[f"PHEMA_{name.upper()}"] = str(secret() if secret else value)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PHEMA_")}
    return {**inherited, **given, "PHEMA_API_PORT": "0"}


@contextmanager
def running(settings: Settings, before: str = "") -> Iterator[ApiProcess]:
    """Killed at the end of the block if it still runs."""
    process = ApiProcess(environment(settings), before)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.kill()
