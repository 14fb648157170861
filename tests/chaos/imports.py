"""Imports of foreign files by `phema import`, in processes that the storm may kill and then repeats."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from phema.local_service.processes import stop

PATTERN = r"weights-(?P<num_images>\d+)-(?P<sigma_rel>[0-9.]+)\.safetensors"
FILES = [(time, sigma_rel) for time in (640, 1280, 1920) for sigma_rel in (0.05, 0.1)]


class Imports:
    """Used by one thread at a time. Imports the same files under one name after the other."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)
        self.files = folder / "foreign"
        self.files.mkdir(parents=True)
        for number, (time, sigma_rel) in enumerate(FILES):
            generator = torch.Generator().manual_seed(number)
            tensors = {"weight": torch.randn(64, 64, generator=generator), "bias": torch.randn(64, generator=generator)}
            save_file(tensors, self.files / f"weights-{time}-{sigma_rel}.safetensors")
        self.done: list[str] = []
        self._again: list[str] = []
        self._begun = 0
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None
        self.repeats = 0

    @property
    def pid(self) -> int | None:
        """Of the command that runs now."""
        running = self._running
        return None if running is None or running[1].poll() is not None else running[1].pid

    def begin(self) -> None:
        """Start another import, unless one is unfinished."""
        if self._running is None:
            self._begun += 1
            self._run(f"imported-{self._begun}")

    def look(self) -> None:
        """Repeat an import that did not succeed."""
        if self._running is None and self._again:
            self._run(self._again.pop())
        if self._running is None or (code := self._running[1].poll()) is None:
            return
        name, _ = self._running
        if code == 0:
            if name not in self._again:
                self.done.append(name)
            self._running = None
        else:
            self.repeats += 1
            self._run(name)

    def repeat_all(self) -> None:
        """Repeat every import: a rebuild opens the runs again, because it cannot know which are complete.

        The one under way too: it may have ended in the lost catalog.
        """
        under_way = [] if self._running is None else [self._running[0]]
        self._again, self.done = [*self.done, *under_way], []

    @property
    def unfinished(self) -> bool:
        self.look()
        return self._running is not None or bool(self._again)

    def stop(self) -> None:
        if self._running is not None:
            stop(self._running[1], grace_s=5)

    def _run(self, name: str) -> None:
        command = [sys.executable, "-m", "phema.command.main", "import", str(self.files)]
        with (self._folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--name", name, "--pattern", PATTERN],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._running = name, process
