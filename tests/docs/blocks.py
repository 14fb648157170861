"""Code blocks of pages: what the mark of each block says, and a session in which the blocks of a page run in order.

A mark is an HTML comment in the line before a block:

    <!-- run -->                      run in the session of the page
    <!-- run: FILE -->                written to FILE in the session's folder, for later blocks
    <!-- run by tests/…/test_….py --> another test runs the block
    <!-- test: NAME -->               a test that names the page and NAME runs the block
    <!-- not run: REASON -->          a reason of NOT_RUN
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NOT_RUN = (
    "a fragment",  # it needs objects of the reader's program
    "needs a GPU",
    "needs Docker",
    "needs Kubernetes",
    "needs the reader's files or deployment",
    "output",  # what a command prints
    "starts processes until Ctrl-C",
    "takes minutes",
)
"""Reasons for which a block does not run in any test."""
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?"
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_RECORDED = re.compile(r"<!-- recorded: \S+ -->\n.*?<!-- end -->", re.DOTALL)
MINUTES = 10
"""Limit for one block of shell commands, on a busy machine."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> str:
        """The shell lines of the block: of a transcript, the lines after `$ ` and their continuations."""
        if not any(line.startswith("$ ") for line in self.text.splitlines()):
            return self.text
        found, goes_on = [], False
        for line in self.text.splitlines():
            if line.startswith("$ ") or goes_on:
                found.append(line.removeprefix("$ "))
                goes_on = line.endswith("\\")
        return "\n".join(found)

    @property
    def columns(self) -> set[str]:
        """Names of columns of the tables that a transcript shows."""
        heads = re.findall(r"^[A-Z_]{2,}(?: {2,}[A-Z_]+(?: [A-Z_]+)*)+$", self.text, re.MULTILINE)
        return {column for head in heads for column in re.split(r" {2,}", head)}


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order, without those that tests/api/record.py writes. `page` is a path in the
    repository."""
    text = _RECORDED.sub(lambda found: "\n" * found[0].count("\n"), (ROOT / page).read_text())
    return [
        Block(page, text.count("\n", 0, m.start("fence")) + 1, m["language"], m["mark"] or "", _dedented(m))
        for m in _BLOCK.finditer(text)
    ]


def _dedented(match: re.Match[str]) -> str:
    return re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)


@dataclass
class Session:
    """A folder in which the blocks of one page run. Python blocks share their names; shell blocks share the folder."""

    page: str
    folder: Path
    environment: Mapping[str, str]
    names: dict[str, Any] = field(default_factory=dict)
    """What Python blocks find defined."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Pieces of blocks that stand for something of the reader's, such as ids, and what this session has for them."""

    marks: tuple[str, ...] = ("run",)
    """Marks of the blocks that run."""

    def run(self) -> list[str]:
        """Run the marked blocks in order; returns the output of each. Raises AssertionError if one fails."""
        outputs = []
        with contextlib.chdir(self.folder), _environment(self.environment):
            for block in blocks(self.page):
                text = block.text if block.language == "python" else block.commands
                for piece, own in self.replaced.items():
                    text = text.replace(piece, own)
                if block.mark.startswith("run: "):
                    (self.folder / block.mark.removeprefix("run: ")).write_text(text)
                elif block.mark in self.marks:
                    outputs.append(
                        self._python(block, text) if block.language == "python" else self._shell(block, text)
                    )
        assert outputs, f"no block of {self.page} is marked to run"
        return outputs

    def _python(self, block: Block, text: str) -> str:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                code = compile(text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                if inspect.iscoroutine(waits := eval(code, self.names)):
                    asyncio.run(waits)
        except Exception as error:
            raise AssertionError(f"{block.where} failed:\n{text}\n{printed.getvalue()}") from error
        return printed.getvalue()

    def _shell(self, block: Block, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60 * MINUTES,
        )
        assert done.returncode == 0, f"{block.where} failed:\n{text}\n{done.stdout}"
        absent = {column for column in block.columns if column not in done.stdout}
        assert not absent, f"{block.where} shows columns that are not printed: {absent}\n{done.stdout}"
        return done.stdout


def run_page(page: str, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Run the marked blocks of a page in a session of their own; returns the output of each."""
    return Session(page, folder, environment).run()


@contextlib.contextmanager
def _environment(chosen: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with the chosen variables, no other ones of phema, and `phema` in the path."""
    before = dict(os.environ)
    kept = {name: value for name, value in before.items() if not name.startswith("PHEMA_")}
    os.environ.clear()
    os.environ.update({**kept, **chosen, "PATH": f"{BIN}:{before['PATH']}"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
