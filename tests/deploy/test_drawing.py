"""Dashboards drawn from what a real Prometheus answered of a real run (answers.json, by record_answers.py)."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deploy.grafana import draw
from deploy.grafana.answers import NoData, Series, Window, asking, called, happened, lines, series
from deploy.grafana.build import DASHBOARDS
from deploy.grafana.panels import Dashboard, Event, Panel, Row, one
from deploy.grafana.run import RUN_DASHBOARD
from deploy.grafana.services import STORE
from deploy.grafana.units import UNITS, written
from tests.deploy.record_answers import FILE
from tests.deploy.server import prometheus, require_prometheus

DEADLINE_SECONDS = 60.0
RECORDED = json.loads(FILE.read_text())
WINDOW = Window(*RECORDED["window"])
RUN: dict[str, str] = RECORDED["variables"]
ROOM = dataclasses.replace(STORE, rows=(STORE.rows[-1],))


def recorded(expr: str, _: Window) -> list[Series]:
    assert expr in RECORDED["answers"], f"record anew: nobody asked {expr}"
    return series(RECORDED["answers"][expr])


@pytest.fixture(scope="module")
def run_page() -> Figure:
    return draw.drawn(RUN_DASHBOARD, recorded, WINDOW, **RUN)


@pytest.fixture(scope="module")
def store_page() -> Figure:
    return draw.drawn(ROOM, recorded, WINDOW)


def curves(dashboard: Dashboard, page: Figure) -> dict[str, Any]:
    """The axes of each time series by its panel's title."""
    axes = iter(page.axes)
    return {panel.title: next(axes) for panel in dashboard.panels if panel.kind != "stat"}


def texts(page: Figure) -> list[str]:
    return [text.get_text() for text in page.texts]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "short", "0"),
        (76_800, "short", "76.8 K"),
        (0.04567, "short", "0.0457"),
        (-2.5, "short", "-2.5"),
        (1_234_567, "short", "1.23 Mil"),
        (0.952, "percentunit", "95.2%"),
        (0.0, "percentunit", "0%"),
        (683_671_552, "bytes", "652 MiB"),
        (1023, "bytes", "1023 B"),
        (145_300_000, "Bps", "145 MB/s"),
        (4.444, "reqps", "4.44 req/s"),
        (0.0021, "s", "2.1 ms"),
        (7.6, "s", "7.6 s"),
        (90, "s", "1.5 min"),
        (5400, "s", "1.5 hour"),
        (0.0, "s", "0 s"),
        (float("nan"), "s", "nan"),
    ],
)
def test_numbers_are_written_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_every_unit_of_a_panel_can_be_written() -> None:
    assert {panel.unit for dashboard in DASHBOARDS for panel in dashboard.panels} <= UNITS


def test_every_panel_has_its_title_and_every_series_its_line_and_name(run_page: Figure) -> None:
    drawn_curves = curves(RUN_DASHBOARD, run_page)
    for panel in RUN_DASHBOARD.panels:
        assert panel.title in texts(run_page)
        if panel.kind != "timeseries":
            continue
        found = lines(RUN_DASHBOARD, panel, recorded, WINDOW, **RUN)
        solid = [line for line in drawn_curves[panel.title].lines if line.get_linestyle() == "-"]
        assert len(solid) == len(found) > 0
        assert {name for name, _ in found} <= set(texts(run_page))


def test_figure_3_is_there_by_side_and_resolution(run_page: Figure) -> None:
    magnitudes = curves(RUN_DASHBOARD, run_page)
    for title in ("Activations, encoder", "Activations, decoder", "Weights, encoder", "Weights, decoder"):
        assert len([line for line in magnitudes[title].lines if line.get_linestyle() == "-"]) == 2
        assert magnitudes[title].get_ylim()[0] == 0
    assert {"4 × 4", "8 × 8"} <= set(texts(run_page))
    assert magnitudes["Weights, encoder"].get_ylim()[1] == pytest.approx(1.06, rel=0.01)  # G's weights have magnitude 1


def test_numbers_have_the_colour_of_their_limits(run_page: Figure) -> None:
    (alerts,) = [text for text in run_page.texts if text.get_text() == "0" and text.get_fontsize() > 15]
    assert alerts.get_color() == draw.NAMED["green"]
    assert dict.fromkeys(t for t in texts(run_page) if t.endswith(" MiB"))


def test_axes_are_logarithmic_stacked_and_in_the_unit(run_page: Figure) -> None:
    drawn_curves = curves(RUN_DASHBOARD, run_page)
    assert drawn_curves["Gradient norm"].get_yscale() == "log"
    stacked = drawn_curves["A step's time by part"]
    tops = [line.get_ydata()[-2] for line in stacked.lines if line.get_linestyle() == "-"]
    assert tops == sorted(tops)
    assert len(stacked.collections) >= 5
    run_page.canvas.draw()
    assert {label.get_text()[-2:] for label in stacked.get_yticklabels()} <= {"ms", " s"}
    assert all(label.get_text().endswith("%") for label in drawn_curves["Time lost"].get_yticklabels())


def test_events_are_lines_in_their_colours(run_page: Figure) -> None:
    (snapshot,) = [event for event in RUN_DASHBOARD.events if event.name == "snapshot"]
    spans = happened(snapshot, recorded, WINDOW, **RUN)
    assert spans
    for axes in curves(RUN_DASHBOARD, run_page).values():
        blue = [line for line in axes.lines if line.get_color() == draw.NAMED["blue"] and line.get_linestyle() != "-"]
        assert len(blue) == len(spans)
    assert f"┆ snapshot: {len(spans)}" in texts(run_page)


def test_a_bar_gauge_is_a_bar_a_place(store_page: Figure) -> None:
    bars = curves(ROOM, store_page)["Disk in use"]
    assert len(bars.patches) == 4  # state and store, each on its ground
    assert 0 < bars.patches[1].get_width() < 1
    assert {"state", "store"} <= {text.get_text() for text in bars.texts}


def test_the_picture_is_a_small_png_of_the_whole_page() -> None:
    picture = draw.picture(ROOM, recorded, WINDOW)
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx((24 * draw.CELL[0] + 0.2) * draw.DPI, abs=2)
    assert len(picture) < 300_000


def test_a_panel_without_data_is_an_error_that_names_it() -> None:
    nothing = Series({}, (WINDOW.start,), (float("nan"),))

    def ask(expr: str, window: Window) -> list[Series]:
        return [nothing] if "learning_rate" in expr else recorded(expr, window)

    with pytest.raises(NoData, match=r"panel 'Learning rate' of 'phema: Run' has no data: .*learning_rate"):
        draw.drawn(RUN_DASHBOARD, ask, WINDOW, **RUN)


def test_events_within_a_step_are_one_span() -> None:
    event = Event("it", "up", "red", "", step=15)
    at = (0.0, 15.0, 30.0, 45.0, 60.0, 90.0)
    found = happened(event, lambda expr, window: [Series({}, at, (1, 1, 0, 1, 0, 1))], WINDOW)
    assert found == [(0.0, 15.0), (45.0, 45.0), (90.0, 90.0)]


def test_a_line_breaks_where_prometheus_has_no_value() -> None:
    broken = Series({}, (0.0, 10.0, 40.0), (1.0, 2.0, 3.0))
    panel = dataclasses.replace(one("It", "short", "up", "it"), width=24)
    dashboard = Dashboard("it", "It", "", (Row("It", (panel,)),))
    page = draw.drawn(dashboard, lambda expr, window: [broken], Window(0, 40, 10))
    values = page.axes[0].lines[0].get_ydata()
    assert [value if value == value else None for value in values] == [1.0, 2.0, None, None, 3.0]


def test_a_panel_s_colours_begin_at_their_limits() -> None:
    panel = Panel("It", "short", (), limits=((None, "green"), (0.5, "orange"), (0.9, "red")))
    assert [panel.colour(value) for value in (-1, 0.49, 0.5, 0.9)] == ["green", "green", "orange", "red"]


def test_names_are_made_of_labels() -> None:
    assert called("{{kind}} of {{ lost }}", {"kind": "train"}) == "train of "


def test_a_real_prometheus_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_prometheus()
    with prometheus(tmp_path, "127.0.0.1:1") as url, httpx.Client() as client:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _ready(url, client):
            assert time.monotonic() < deadline
        ask, now = asking(url, client), time.time()
        window = Window(now - 30, now, 15)
        (answered,) = series(ask("vector(2)", window))
        assert answered.values == (2.0, 2.0, 2.0)
        with pytest.raises(ValueError, match=r"Prometheus refuses 'sum\(': .*parse error"):
            ask("sum(", window)
        out = tmp_path / "run.png"
        given = ["draw", "--prometheus", url, "--run", "run-0", "--out", str(out)]
        monkeypatch.setattr("sys.argv", given)
        with pytest.raises(SystemExit, match="has not seen the run 'run-0'"):
            draw.main()
        assert not out.exists()


def _ready(url: str, client: httpx.Client) -> bool:
    try:
        return client.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
