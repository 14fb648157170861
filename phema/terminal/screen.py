"""What the command prints and where: results on stdout (as JSON on request), progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

LINE_SECONDS = 15.0
"""How often a progress bar that nobody can see moving writes a line instead."""
APART_SECONDS = 1.0
"""Lines of quick work keep this distance; the last one is always written."""
LONGEST_LINE = 10_000


class Screen:
    """The output of one command. With `as_json` stdout carries the document given to `result` and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        # Ids cut off with an ellipsis are of no use to anybody: lines are as long as they need to be.
        self.out = Console(highlight=False, soft_wrap=True, width=LONGEST_LINE)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, document: Any, human: Callable[[], None]) -> None:
        """Print the outcome: the document as JSON, or what `human` prints."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        else:
            human()

    def say(self, text: str) -> None:
        """A sentence about the result, on stdout; silent with --json."""
        if not self.as_json:
            self.out.print(escape(text))

    def note(self, text: str) -> None:
        """A remark that is no result, on stderr."""
        self.err.print(escape(text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        """A table on stdout; the columns named in `right` are aligned to the right."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        """A progress bar with ETA on stderr; lines now and then where stderr is no terminal."""
        if not self.err.is_terminal:
            yield LineBar(title, self.note)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeElapsedColumn(),
            TextColumn("eta", style="dim"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err) as progress:
            yield RichBar(progress, title)


class Bar:
    """Progress of one thing."""

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        """`total` None: under way, but nobody knows how far."""
        raise NotImplementedError


class RichBar(Bar):
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(escape(title), total=None, detail="")

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, detail=escape(detail))


class LineBar(Bar):
    """A line at each tenth, and after a quarter of a minute without one."""

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


def duration(seconds: float) -> str:
    """1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int | None) -> str:
    """Bytes for people: 812 B, 3.4 MiB."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def when(moment: Any) -> str:
    """A time of the service in the user's own time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def figure(value: float | None) -> str:
    """A figure with four significant digits; a dash for none."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
