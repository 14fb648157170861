"""`python -m phema.services.trainer.control.end_drivers`: trainings of a machine store a checkpoint and stop.

A hook for the end of a container that runs a Ray node. Ray tells the workers of Ray Train that their node goes away,
but not the driver of a run of one worker, which trains by itself. Linux only; needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

DRIVER = "phema.services.trainer.control.driver"
LOOK_SECONDS = 0.1


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if no driver is left, 1 if one has not ended in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=int, default=1, help="only drivers that descend from this process (default 1)")
    parser.add_argument("--seconds", type=float, default=80.0, help="wait for so long until they have ended")
    options = parser.parse_args(arguments)
    for process in drivers(options.of):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + options.seconds
    while left := drivers(options.of):
        if time.monotonic() > deadline:
            print(f"{len(left)} trainings have not stopped within {options.seconds:g} s", file=sys.stderr)
            return 1
        time.sleep(LOOK_SECONDS)
    return 0


def drivers(ancestor: int) -> list[int]:
    """Process ids of the drivers below a process."""
    found, parents = [], {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            # "pid (name) state parent …"; the name may hold spaces and brackets. A zombie has ended.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            parents[int(folder.name)] = int(parent)
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"-m", DRIVER.encode()] and state != "Z":
                found.append(int(folder.name))

    def descends(process: int) -> bool:
        while process not in (0, ancestor):
            process = parents.get(process, 0)
        return process == ancestor

    return [process for process in found if process != ancestor and descends(process)]


if __name__ == "__main__":
    sys.exit(main())
