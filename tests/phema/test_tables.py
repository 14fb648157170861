"""Tables heed the terminal's width and never break a word."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from phema.client.client import Client
from phema.terminal.tables import laid_out
from tests.phema.service import Service
from tests.phema.test_cli import PHEMA, Cli, drain

COLUMNS = ("NAME", "IMAGES", "CREATED", "ID", "ERROR")
ROWS = [
    ("digits-a", "25,600", "2026-11-29 14:20", "run-802efd14f593", "the store is full and could not be written"),
    ("b", "1", "2026-11-29 14:21", "run-1", ""),
]


def table(width: int | None) -> tuple[list[str], list[str]]:
    found = laid_out(COLUMNS, ROWS, right=("IMAGES",), spare=("CREATED", "ID"), width=width)
    return found.lines, found.left_out


def test_with_room_nothing_is_left_out() -> None:
    lines, left_out = table(None)
    assert left_out == []
    assert lines[1] == f"digits-a   25,600   2026-11-29 14:20   run-802efd14f593   {ROWS[0][4]}"
    assert (lines, left_out) == table(len(lines[1]))


@pytest.mark.parametrize("width", range(24, 110))
def test_no_width_breaks_a_word_or_loses_a_cell(width: int) -> None:
    lines, left_out = table(width)
    kept = [cell for row in ROWS for name, cell in zip(COLUMNS, row, strict=True) if name not in left_out]
    words = " ".join(lines).split()
    assert all(word in words for cell in kept for word in cell.split())
    # The longest words and the gaps need 35 characters after both spare columns are gone.
    assert max(map(len, lines)) <= max(width, len("digits-a  25,600  written"))
    assert left_out == ["CREATED", "ID"][: len(left_out)]


def test_a_terminal_of_80_columns_shows_runs_in_80_columns(service: Service, client: Client, name: str) -> None:
    config = {"total_images": 25_600, "network": {"dropout": 0.1}}
    client.runs.create(f"{name}-with-a-rather-long-name", config=config)
    for arguments in (["list"], ["show", f"{name}-with-a-rather-long-name"]):
        outer, inner = pty.openpty()
        environment = {**os.environ, "PHEMA_URL": service.url, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
        command = [*PHEMA, "runs", *arguments]
        with subprocess.Popen(command, env=environment, stdout=inner, stderr=subprocess.PIPE, text=True) as child:
            os.close(inner)
            shown = drain(outer).decode().splitlines()
            _, err = child.communicate()
        os.close(outer)
        assert max(map(len, shown)) <= 80
        assert any(line.startswith(f"{name}-with-a-rather-long-name") for line in shown)
    assert err == ""


def test_what_differs_from_the_preset_comes_first(service: Service, client: Client, cli: Cli, name: str) -> None:
    client.runs.create(name, config={"total_images": 25_600, "network": {"dropout": 0.1}})
    code, out, _ = cli("runs", "show", name)
    lines = out.splitlines()
    assert (code, max(map(len, lines)) <= 80) == (0, True)
    start = lines.index("differs from digits-tiny   value   preset")
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["network.dropout", "0.1", "0.0"],
        ["total_images", "25600", "76800"],
    ]
    rest = [line.split()[0] for line in lines[lines.index("configuration") + 1 :]]
    assert ("network.dropout" in rest, "batch_size" in rest, "dataset.path" in rest) == (False, True, True)
    client.runs.create(f"{name}b")
    assert "The configuration is that of the preset digits-tiny." in cli("runs", "show", f"{name}b")[1]
