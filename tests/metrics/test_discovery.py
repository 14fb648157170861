"""A new module below a package is found; nothing else needs to know it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from phema.shared.metrics.discovery import constants
from phema.shared.metrics.metric import FROM_PICTURES, Figure, Metric

MODULE = """
from phema.shared.metrics.metric import FROM_PICTURES, Figure, Metric

METRIC = Metric(name="{name}", figures=(Figure("{name}", "lower", "", ""),), rank=1, needs=FROM_PICTURES)
"""


def test_modules_of_all_folders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    room = tmp_path / "offered_here" / "room"
    room.mkdir(parents=True)
    for folder in (room.parent, room):
        (folder / "__init__.py").write_text("")
    (room.parent / "helper.py").write_text("VALUE = 1\n")
    (room.parent / "outer.py").write_text(MODULE.format(name="outer"))
    (room / "inner.py").write_text(MODULE.format(name="inner"))
    package = import_module("offered_here")
    try:
        found = {metric.name: metric for metric in constants(package, "METRIC", Metric)}
        assert set(found) == {"outer", "inner"}
        expected = Metric("inner", (Figure("inner", "lower", "", ""),), 1, FROM_PICTURES)
        assert (found["inner"].figures, found["inner"].needs) == (expected.figures, expected.needs)
        (room / "wrong.py").write_text("METRIC = 'a text'\n")
        with pytest.raises(TypeError, match=r"offered_here\.room\.wrong\.METRIC must be a Metric, not str"):
            list(constants(package, "METRIC", Metric))
    finally:
        for name in [name for name in sys.modules if name.startswith("offered_here")]:
            del sys.modules[name]
