"""A file system of a few MiB that a fault can fill: a tmpfs, where this process may mount one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

BALLAST = "ballast"
_BLOCK = bytes(2**16)


class SmallDisk:
    """`path` is a mounted tmpfs of `mebibytes`; a plain folder, which cannot be filled, where mounting is forbidden."""

    def __init__(self, path: Path, mebibytes: int) -> None:
        self.path, self._mebibytes = path, mebibytes
        self.mounted = False

    def mount(self) -> None:
        self.path.mkdir(parents=True)
        options = f"size={self._mebibytes}m,mode=0777"
        command = ["mount", "-t", "tmpfs", "-o", options, "phema-storm", str(self.path)]
        self.mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        if self.mounted:
            # Lazily: a process that has just been killed may still have a file open.
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)
            self.mounted = False

    def fill(self) -> None:
        """Take every byte that is left."""
        assert self.mounted
        with (self.path / BALLAST).open("wb", buffering=0) as file:
            try:
                while file.write(_BLOCK):
                    pass
            except OSError:
                return

    def free(self) -> None:
        (self.path / BALLAST).unlink(missing_ok=True)
