"""Run one command as the first process of a container would, and kill the daemons that it leaves behind. Linux only.

    python -S reaper.py PID_FILE STOP_SIGNAL GRACE_SECONDS COMMAND…

Run by its path, with nothing but the standard library. Writes the command's process id to PID_FILE. Passes SIGTERM on
as STOP_SIGNAL, and sends SIGKILL after GRACE_SECONDS. When the command has ended, kills every process that descends
from it, daemons included. Exits with the command's code, or with 128 + the number of the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(pid_file: str, stop_signal: str, grace: str, *command: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans become children of this process instead of process 1.
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "this system has no child subreapers")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)

    def stop(_number: int, _frame: FrameType | None) -> None:
        os.kill(child, getattr(signal, stop_signal))
        signal.setitimer(signal.ITIMER_REAL, float(grace))

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    Path(pid_file).write_text(str(child))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    ended = None
    while ended != child:
        ended, status = os.wait()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
    _kill_the_rest()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _kill_the_rest() -> None:
    """Kill all children; when an orphan dies, its own children become ours."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        for pid in own.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
