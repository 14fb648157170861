"""docs/chaos.md tells of faults that exist."""

from __future__ import annotations

import re

from tests.chaos.faults import catalog_loss, registry
from tests.chaos.report import BEGIN, END, PAGE


def test_the_page_names_faults_of_this_storm() -> None:
    _, _, rest = PAGE.read_text().partition(BEGIN)
    table, end, _ = rest.partition(END)
    assert end, "make chaos writes between these lines"
    named = re.findall(r"^\| (?!Fault|---)([^|]+) \| \d+ \|", table, re.MULTILINE)
    assert named
    assert set(named) <= {fault.name for fault in registry.load()} | {catalog_loss.NAME}
