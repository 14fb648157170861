"""The registry of metrics: every entry can be computed and is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from phema.shared.metrics.registry import FIGURES, METRICS, available_metrics, ranking_figure

PAGE = (Path(__file__).parents[2] / "docs" / "evaluations.md").read_text()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_the_functions_that_workers_call(name: str) -> None:
    module = import_module(METRICS[name].module)
    assert callable(module.work)
    assert callable(module.compute)


def test_every_figure_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (lower|higher) \| (\w+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [
        (figure.name, figure.better, figure.unit or "none", metric.name)
        for metric in METRICS.values()
        for figure in metric.figures
    ]


def test_figures_have_distinct_names() -> None:
    assert len(FIGURES) == sum(len(metric.figures) for metric in METRICS.values())


def test_metrics_that_need_held_out_pictures_need_a_run_that_keeps_some() -> None:
    assert available_metrics(held_out=0) == ("frechet",)
    assert available_metrics(held_out=1) == ("frechet", "held_out_loss")


def test_evaluations_are_ranked_by_the_first_figure_that_they_have() -> None:
    assert ranking_figure(["held_out_loss", "frechet"]) is FIGURES["frechet"]
    assert ranking_figure(["held_out_loss"]) is FIGURES["held_out_loss"]
    assert ranking_figure(["unknown"]) is None


def test_the_registry_is_free_of_torch() -> None:
    code = "import sys, phema.shared.metrics.registry; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
