"""The table of a storm's faults and outcomes, for the terminal and for docs/chaos.md."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.chaos.faults import catalog_loss
from tests.chaos.faults.registry import FAULTS
from tests.chaos.storm import Storm

PAGE = Path(__file__).parents[2] / "docs/chaos.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
"""What `make chaos` writes stands between these lines of the page."""


@dataclass(frozen=True)
class Outcome:
    """All that is told of a storm. `seconds`: from its first fault to the end of all work."""

    storm: Storm
    command: str
    seconds: float
    checks: Sequence[str]


def table(outcome: Outcome) -> str:
    """Markdown: one row per fault, with how often, how long until the victim was up, and until the next progress."""
    storm = outcome.storm
    recoveries = {fault.name: fault.recovery for fault in FAULTS} | {catalog_loss.NAME: catalog_loss.RECOVERY}
    lines = [
        "| Fault | Times | How the work survives | Victim up after, s | Next progress after, s |",
        "|---|---|---|---|---|",
    ]
    for name, recovery in recoveries.items():
        own = [each for each in storm.injected if each.fault == name]
        if not own:
            continue
        up = [each.up_after for each in own]
        next_ = [after for each in own if (after := storm.watch.seconds_after(each.began + each.up_after)) is not None]
        lines.append(f"| {name} | {len(own)} | {recovery} | {_spread(up)} | {_spread(next_)} |")
    return "\n".join(lines)


def summary(outcome: Outcome) -> str:
    """Markdown: what was found afterwards."""
    return "\n".join(f"- {line[0].upper()}{line[1:]}." for line in outcome.checks)


def section(outcome: Outcome) -> str:
    """The part of the page that a storm writes."""
    faults = len(outcome.storm.injected)
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "sqlalchemy", "boto3", "ministack"))
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} CPU cores, {memory:.0f} GiB of memory, {platform.system()}"
    where = f"{machine}; Python {platform.python_version()}, {versions}"
    return "\n".join([
        BEGIN,
        f"`{outcome.command}` on {datetime.now(UTC):%d %B %Y}: {faults} faults, "
        f"{outcome.seconds / 60:.0f} minutes. {where}.",
        "",
        table(outcome),
        "",
        "Times are medians, with the longest in parentheses. Afterwards:",
        "",
        summary(outcome),
        END,
    ])  # fmt: skip


def write_page(outcome: Outcome, page: Path = PAGE) -> None:
    """Replace the marked part of the page."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + section(outcome) + after)
    print(f"wrote {page}", file=sys.stderr)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} ({max(values):.1f})"
