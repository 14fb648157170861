"""Progress on stderr: a bar with ETA on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from phema.terminal.formats import duration

LINE_SECONDS = 15.0
"""Longest time between two lines, in seconds."""
APART_SECONDS = 1.0
"""Shortest time between two lines, in seconds. The last line is always written."""


class Bar(Protocol):
    """Progress of one operation."""

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        """Show `done` of `total`, in any unit. `total` None: started, but the amount of work is not known."""


@contextmanager
def terminal_bar(title: str) -> Iterator[Bar]:
    """A bar that rich draws on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class _RichBar:
        def update(self, done: float, total: float | None, detail: str = "") -> None:
            progress.update(task, completed=done, total=total, detail=escape(detail))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
        TimeElapsedColumn(),
        TextColumn("eta", style="dim"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False, soft_wrap=True)) as progress:
        task = progress.add_task(escape(title), total=None, detail="")
        yield _RichBar()


class LineBar:
    """Writes a line at each tenth of the work, and after 15 s without one."""

    def __init__(self, title: str, write: Callable[[str], None]) -> None:
        self._title = title
        self._write = write
        self._tenth = -1
        self._first: tuple[float, float] | None = None
        self._last = -LINE_SECONDS

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        now = time.monotonic()
        tenth = -1 if not total else int(10 * done / total)
        soonest = LINE_SECONDS if tenth == self._tenth else APART_SECONDS
        if now - self._last < soonest and (tenth < 10 or tenth == self._tenth):
            return
        if self._first is None and total:
            self._first = (now, done)
        self._tenth, self._last = tenth, now
        parts = [detail] if detail else []
        if total:
            parts.insert(0, f"{done / total:.0%}")
            parts += self._eta(now, done, total)
        self._write(f"{self._title}: {', '.join(parts) or 'started'}")

    def _eta(self, now: float, done: float, total: float) -> list[str]:
        started, at = self._first or (now, done)
        if done >= total or done <= at:
            return []
        return [f"eta {duration((now - started) * (total - done) / (done - at))}"]
