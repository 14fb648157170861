"""Start services in the order of their needs, check their health, restart them, and end them in reverse order.

`phema up` and `python -m deploy.local` each give a list of services to a `Supervisor`.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from phema.local_service.processes import spawn, stop, tail
from phema.local_service.service import Check, OnExit, Service, ServiceFailed

LOOK_SECONDS = 0.1
CHECK_SECONDS = 0.2
"""Pause between two health checks of a service. After a check that took longer, the pause is twice its duration,
because checks that are whole programs would slow the start down."""
PROGRESS_SECONDS = 10.0
"""While services start, this often a line says which of them are not ready."""
RESTART_SECONDS = 1.0
"""A service that exits sooner than this after its start is restarted only then."""
REAP_SECONDS = 10.0
"""Time that the reaper has beyond the grace period of its command."""
REAPER = Path(__file__).with_name("reaper.py")


class Member:
    """A service of a supervisor, and its process while there is one."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.ready = False
        self.restarts = 0
        self._pid_file = log.with_suffix(".pid")
        self._process: subprocess.Popen[bytes] | None = None
        self._check: subprocess.Popen[bytes] | None = None
        self._started = self._check_started = self._next_check = 0.0
        self._deadline: float | None = None

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """None while the service runs, and before its first start."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int | None:
        """Process id of the service itself, not of its reaper; None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        if not self.service.reap:
            return self._process.pid
        text = self._pid_file.read_text() if self._pid_file.exists() else ""
        return int(text) if text else None

    @property
    def late(self) -> bool:
        """Whether the service has not yet been healthy and its time to become so is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def start(self) -> None:
        """Raises CannotStart from the service's `setup`."""
        service = self.service
        for folder in service.folders:
            folder.mkdir(parents=True, exist_ok=True)
        if service.setup is not None:
            service.setup()
        self._pid_file.unlink(missing_ok=True)
        command = service.command
        if service.reap:
            options = (str(self._pid_file), service.stop_signal, f"{service.grace:g}")
            command = (sys.executable, "-S", str(REAPER), *options, *command)
        self._process = spawn(command, log=self.log, env=service.environment, cwd=service.cwd, inherit=False)
        self._started = time.monotonic()
        self._next_check = 0.0
        if self._deadline is None:
            self._deadline = self._started + (service.check.start if service.check else math.inf)

    def may_restart(self) -> bool:
        return time.monotonic() - self._started > RESTART_SECONDS

    def restart(self) -> None:
        self.restarts += 1
        self.start()

    def look_at_health(self) -> None:
        """Set `ready` when the service can be used. Raises ServiceFailed when it is not healthy in time."""
        check, now = self.service.check, time.monotonic()
        if check is None:
            self._set_ready()
        elif self._check is not None:
            self._look_at_check(self._check, check, now)
        elif now >= self._next_check:
            service = self.service
            self._check = spawn(
                check.command, log=self._check_log, env=service.environment, cwd=service.cwd, inherit=False
            )
            self._check_started = now

    def _look_at_check(self, running: subprocess.Popen[bytes], check: Check, now: float) -> None:
        code, took = running.poll(), now - self._check_started
        if code == 0:
            self._check = None
            self._set_ready()
        elif code is not None or took > check.timeout:
            self.end_check()
            self._next_check = now + max(CHECK_SECONDS, 2 * took)
            if self.late:
                raise ServiceFailed(
                    self.service.name,
                    f"{self.service.name} was not healthy after {check.start:g} s: {tail(self._check_log, 1)}; "
                    f"its log is {self.log}",
                )

    def _set_ready(self) -> None:
        # From now on the service may take as long as it needs to become healthy again.
        self.ready, self._deadline = True, math.inf

    @property
    def _check_log(self) -> Path:
        return self.log.with_suffix(".health.log")

    def end_check(self) -> None:
        if self._check is not None:
            stop(self._check, grace_s=0)
            self._check = None

    def ask_to_end(self) -> None:
        self.end_check()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Until the service has ended; SIGKILL after the grace period."""
        if self._process is not None:
            stop(self._process, grace_s=self.service.grace + (REAP_SECONDS if self.service.reap else 0.0))
        self._pid_file.unlink(missing_ok=True)


class Supervisor:
    """Runs services. Use it from one thread: a child process dies with the thread that started it.

    `report` gets one line for each restart, and lines about a start that takes long. `on_change` is called when a
    service starts, becomes ready or exits.
    """

    def __init__(
        self,
        services: Iterable[Service],
        logs: Path,
        *,
        report: Callable[[str], None] = print,
        on_change: Callable[[Member], None] = lambda member: None,
    ) -> None:
        self.members = {service.name: Member(service, logs / f"{service.name}.log") for service in services}
        self._report, self._on_change = report, on_change
        self._was_ready = False

    @property
    def ready(self) -> bool:
        return all(member.ready for member in self.members.values())

    def begin(self, name: str) -> None:
        """Start a service that needs no other one, before `start` starts the rest. Raises CannotStart."""
        self.members[name].start()

    def start(self, stopping: threading.Event) -> bool:
        """Start all services. True when all are ready, False when `stopping` was set before. Raises CannotStart."""
        began = time.monotonic()
        report_at = began + PROGRESS_SECONDS
        while not self.ready:
            if stopping.is_set():
                return False
            self._look()
            if (now := time.monotonic()) >= report_at:
                waiting = ", ".join(name for name, member in self.members.items() if not member.ready)
                self._report(f"not ready after {now - began:.0f} s: {waiting}; still waiting")
                report_at = now + PROGRESS_SECONDS
            stopping.wait(LOOK_SECONDS)
        self._was_ready = True
        return True

    def supervise(self, stopping: threading.Event) -> None:
        """Restart services that exit, until `stopping` is set. Raises CannotStart."""
        while not stopping.wait(LOOK_SECONDS):
            self._look()

    def stop(self) -> None:
        """End all services; a service ends before the services that it needs or uses."""
        left = {name: member for name, member in self.members.items() if member.started}
        while left:
            needed = {other for member in left.values() for other in (*member.service.needs, *member.service.uses)}
            ending = [member for name, member in left.items() if name not in needed]
            for member in ending:
                member.ask_to_end()
            for member in ending:
                member.wait()
                del left[member.service.name]

    def _look(self) -> None:
        for member in self.members.values():
            before = (member.started, member.ready, member.restarts)
            if not member.started:
                if all(self.members[other].ready for other in member.service.needs):
                    member.start()
            elif member.exit_code is not None:
                self._handle_exit(member, member.exit_code)
            elif not member.ready and member.service.on_exit is not OnExit.COMPLETE:
                member.look_at_health()
            if (member.started, member.ready, member.restarts) != before:
                self._on_change(member)

    def _handle_exit(self, member: Member, code: int) -> None:
        name, on_exit = member.service.name, member.service.on_exit
        if on_exit is OnExit.COMPLETE and code == 0:
            member.ready = True
            return
        member.end_check()
        member.ready = False
        may_restart = (on_exit is OnExit.RESTART and not member.late) or (
            on_exit is OnExit.RESTART_AFTER_START and self._was_ready
        )
        if not may_restart:
            raise ServiceFailed(name, f"{name} exited with code {code}: {tail(member.log, 1)}; its log is {member.log}")
        if member.may_restart():
            self._report(f"{name} exited with code {code}; starting it again")
            member.restart()
