"""Dashboards drawn from what a real Prometheus answered of a real run (answers.json, by record_answers.py)."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path

import httpx
import pytest
from matplotlib.figure import Figure

from deploy.grafana import draw
from deploy.grafana.build import DASHBOARDS
from deploy.grafana.draw import NoData, Result, Window, asking, lines
from deploy.grafana.panels import Panel, one
from deploy.grafana.run import RUN_DASHBOARD
from deploy.grafana.services import STORE
from tests.deploy.record_answers import FILE
from tests.deploy.server import prometheus, require_prometheus

DEADLINE_SECONDS = 60.0
RECORDED = json.loads(FILE.read_text())
WINDOW = Window(*RECORDED["window"])
RUN: dict[str, str] = RECORDED["variables"]
LAST_ROW = dataclasses.replace(STORE, rows=(STORE.rows[-1],))


def recorded(expr: str, _: Window) -> Result:
    assert expr in RECORDED["answers"], f"record anew: {expr} was not asked"
    found: Result = RECORDED["answers"][expr]
    return found


@pytest.fixture(scope="module")
def run_page() -> Figure:
    return draw.drawn(RUN_DASHBOARD, recorded, WINDOW, **RUN)


def test_every_unit_of_a_panel_can_be_written() -> None:
    assert {panel.unit for dashboard in DASHBOARDS for panel in dashboard.panels} <= set(draw.UNITS)


def test_every_panel_has_its_title_and_every_series_its_line_and_name(run_page: Figure) -> None:
    for panel, axes in zip(RUN_DASHBOARD.panels, run_page.axes, strict=False):
        assert axes.get_title("left") == panel.title
        found = lines(panel, recorded, WINDOW, **RUN)
        assert found
        if panel.kind == "timeseries":
            assert [line.get_label() for line in axes.lines] == [name or line.get_label() for name, line in
                                                                 zip(found, axes.lines, strict=True)]  # fmt: skip
            assert axes.get_yscale() == ("log" if panel.log else "linear")
        else:
            assert axes.texts[0].get_text()


def test_figure_3_is_there_by_side_and_resolution(run_page: Figure) -> None:
    panels = {axes.get_title("left"): axes for axes in run_page.axes}
    for title in ("Activations, encoder", "Activations, decoder", "Weights, encoder", "Weights, decoder"):
        assert [line.get_label() for line in panels[title].lines] == ["4 × 4", "8 × 8"]


def test_series_of_a_stacked_panel_lie_on_each_other(run_page: Figure) -> None:
    (stacked,) = [axes for axes in run_page.axes if axes.get_title("left") == "A step's time by part"]
    tops = [line.get_ydata()[-2] for line in stacked.lines]
    assert len(tops) >= 5
    assert tops == sorted(tops)


def test_a_bar_gauge_is_a_line_a_place() -> None:
    page = draw.drawn(LAST_ROW, recorded, WINDOW)
    (disks,) = [axes for axes in page.axes if axes.get_title("left") == "Disk in use"]
    assert [line.split()[0] for line in disks.texts[0].get_text().splitlines()] == ["state", "store"]
    out = io.BytesIO()
    page.savefig(out, format="png")
    assert out.getvalue().startswith(b"\x89PNG")


def test_a_panel_without_data_is_an_error_that_names_it() -> None:
    nothing = [{"metric": {}, "values": [[WINDOW.start, "NaN"]]}]

    def ask(expr: str, window: Window) -> Result:
        return nothing if "learning_rate" in expr else recorded(expr, window)

    with pytest.raises(NoData, match=r"panel 'Learning rate' has no data: .*learning_rate"):
        draw.drawn(RUN_DASHBOARD, ask, WINDOW, **RUN)


def test_a_line_breaks_where_prometheus_has_no_value() -> None:
    broken = [{"metric": {}, "values": [[0, "1"], [10, "2"], [40, "3"]]}]
    (values,) = lines(one("It", "short", "up", "it"), lambda expr, window: broken, Window(0, 40, 10)).values()
    assert [value if value == value else None for value in values] == [1.0, 2.0, None, None, 3.0]


def test_names_are_made_of_labels() -> None:
    answer = [{"metric": {"kind": "train"}, "values": [[0, "1"]]}]
    panel: Panel = one("It", "short", "up", "{{kind}} of {{ lost }}")
    assert list(lines(panel, lambda expr, window: answer, Window(0, 0, 10))) == ["train of "]


def test_a_real_prometheus_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_prometheus()
    with prometheus(tmp_path, "127.0.0.1:1") as url, httpx.Client() as client:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _ready(url, client):
            assert time.monotonic() < deadline
        ask, now = asking(url, client), time.time()
        window = Window(now - 30, now, 15)
        (answered,) = ask("vector(2)", window)
        assert [value for _, value in answered["values"]] == ["2", "2", "2"]
        with pytest.raises(ValueError, match=r"Prometheus refuses 'sum\(': .*parse error"):
            ask("sum(", window)
        out = tmp_path / "run.png"
        monkeypatch.setattr("sys.argv", ["draw", "--prometheus", url, "--run", "run-0", "--out", str(out)])
        with pytest.raises(SystemExit, match="has not seen the run 'run-0'"):
            draw.main()
        assert not out.exists()


def _ready(url: str, client: httpx.Client) -> bool:
    try:
        return client.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
