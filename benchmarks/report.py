"""Output of all benchmarks: hardware, versions and command, then one table or one JSON document."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def machine(device: str = "cpu") -> dict[str, str]:
    """Hardware, versions and the command of this run."""
    place = f"{_cpu()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"
    if device == "cuda":
        place = f"{torch.cuda.get_device_name()}, {place}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return {"hardware": place, "versions": versions, "command": " ".join(["python", *sys.orig_argv[1:]])}


def show(facts: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print `rows` (all with the same keys) below the `facts` about the machine."""
    if as_json:
        print(json.dumps({**facts, "rows": list(rows)}))
        return
    for name, value in facts.items():
        print(f"{name:10} {value}")
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
