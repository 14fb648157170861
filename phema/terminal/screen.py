"""The output of the command: results on stdout (as JSON on request), progress and remarks on stderr.

rich is loaded for a progress bar only: importing it takes more CPU time than most commands.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from phema.terminal.progress_bar import Bar, LineBar, terminal_bar
from phema.terminal.tables import laid_out


class Screen:
    """The output of one command. With `as_json`, stdout carries only the document given to `result`."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, document: Any, human: Callable[[], None]) -> None:
        """Print the outcome: `document` as JSON, or else whatever `human` prints."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        else:
            human()

    def say(self, text: str) -> None:
        """Print a sentence about the result on stdout. Prints nothing with --json."""
        if not self.as_json:
            sys.stdout.write(f"{text}\n")

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        sys.stderr.write(f"{text}\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[str] = (),
        spare: Sequence[str] = ("CREATED",),
        width: int | None = None,
    ) -> None:
        """Print a table on stdout; the columns named in `right` are aligned to the right.

        On a terminal, lines are as long as the terminal is wide, if that is possible without breaking a word; columns
        named in `spare` are left out first. Elsewhere lines are as long as their cells, or as `width`.
        """
        table = laid_out(columns, rows, right=right, spare=spare, width=_terminal_width() or width)
        header, *body = table.lines
        sys.stdout.write("\n".join([_bold(header), *body]) + "\n")
        if table.left_out:
            self.note(f"left out for lack of width: {', '.join(table.left_out)}; --json has all")

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        """Show progress on stderr: a bar on a terminal, otherwise lines."""
        if not _is_terminal(sys.stderr):
            yield LineBar(title, self.note)
            return
        with terminal_bar(title) as bar:
            yield bar


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _terminal_width() -> int | None:
    """Columns of the terminal that shows stdout; None if there is none."""
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if _is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") else text
