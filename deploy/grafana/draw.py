"""Draw the panels of a dashboard from a real Prometheus, for pictures without a Grafana.

`python -m deploy.grafana.draw --prometheus URL --run RUN_ID --dashboard run --out FILE.png`
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter

from deploy.grafana.build import DASHBOARDS
from deploy.grafana.panels import Dashboard, Panel, concrete

CHOSEN = {"weights": "training", "statistic": "max"}
"""Values of the run dashboard's other variables."""
SCRAPE_SECONDS = 5.0
"""`timeInterval` of provisioning/datasources/prometheus.yml, from which Grafana computes $__rate_interval."""
COLUMNS, POINTS = 4, 150
UNITS = {"short": "", "bytes": "B", "Bps": "B/s", "reqps": "req/s", "s": "s", "percentunit": "%"}


class Window(NamedTuple):
    """A range of time, in seconds; `start` and `end` are Unix times."""

    start: float
    end: float
    step: float


Result = list[dict[str, Any]]
"""`data.result` of Prometheus's answer to query_range."""
Ask = Callable[[str, Window], Result]


class NoData(ValueError):
    """A panel has no data; the message names the panel."""


def asking(url: str, client: httpx.Client) -> Ask:
    """A function that asks the Prometheus at `url`. It raises ValueError for an expression that Prometheus refuses."""

    def ask(expr: str, window: Window) -> Result:
        answer = client.post(f"{url.rstrip('/')}/api/v1/query_range", data={"query": expr, **window._asdict()})
        if answer.status_code in (400, 422, 503):
            raise ValueError(f"Prometheus refuses {expr!r}: {answer.json()['error']}")
        answer.raise_for_status()
        result: Result = answer.json()["data"]["result"]
        return result

    return ask


def lines(panel: Panel, ask: Ask, window: Window, **variables: str) -> dict[str, np.ndarray]:
    """Values of each series of the panel by its name, at the times of `window`; NaN where there is none.

    Raises NoData.
    """
    rate, whole = max(window.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS), window.end - window.start
    own = {"__interval": window.step, "__rate_interval": rate, "__range": whole}
    given = {**{name: f"{value:.0f}s" for name, value in own.items()}, **variables}
    found = {}
    for query in panel.queries:
        for series in ask(concrete(query.expr, **given), window):
            name = re.sub(r"{{\s*(\w+)\s*}}", lambda match: series["metric"].get(match[1], ""), query.legend)  # noqa: B023
            known = {round(float(at)): float(value) for at, value in series["values"]}
            values = np.array([known.get(round(at), np.nan) for at in _times(window)])
            if np.isfinite(values).any():
                found[name] = values
    if not found:
        raise NoData(f"panel {panel.title!r} has no data: {' and '.join(query.expr for query in panel.queries)}")
    return found


def drawn(dashboard: Dashboard, ask: Ask, window: Window, **variables: str) -> Figure:
    """One subplot per panel, in order. Raises NoData for the first panel that would be empty."""
    found = [(panel, lines(panel, ask, window, **variables)) for panel in dashboard.panels]
    rows = -(-len(found) // COLUMNS)
    figure = Figure((4 * COLUMNS, 2.6 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{dashboard.title}, {window.end - window.start:.0f} s", fontweight="bold")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    for axes, (panel, values) in zip(grid, found, strict=False):
        _draw(axes, panel, values, _times(window) - window.start)
    return figure


def _times(window: Window) -> np.ndarray:
    return np.arange(window.start, window.end + window.step / 2, window.step)


def _draw(axes: Axes, panel: Panel, values: dict[str, np.ndarray], seconds: np.ndarray) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    written: Formatter = EngFormatter(UNITS[panel.unit])
    if panel.unit in ("short", "percentunit"):
        factor = 1 if panel.unit == "short" else 100
        written = FuncFormatter(lambda value, _: f"{factor * value:.4g} {UNITS[panel.unit]}".rstrip())
    if panel.kind != "timeseries":
        last = {name: value[np.isfinite(value)][-1] for name, value in values.items()}
        text = "\n".join(f"{name} {dict(panel.words).get(one) or written(one)}" for name, one in last.items())
        axes.text(0.5, 0.5, text, fontsize=13, ha="center", va="center")
        axes.set_axis_off()
        return
    base = np.zeros(len(seconds))
    for name, value in values.items():
        axes.plot(seconds, base + value, label=name, linewidth=1.2, marker=".", markersize=2)
        base = base + np.nan_to_num(value) if panel.stack else base
    axes.set_yscale("log" if panel.log else "linear")
    axes.yaxis.set_major_formatter(written)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if any(values):
        axes.legend(fontsize=6)


def main() -> None:
    known = {dashboard.uid.removeprefix("phema-"): dashboard for dashboard in DASHBOARDS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True, help="its URL")
    parser.add_argument("--run", required=True, help="id of the run whose time the picture shows")
    parser.add_argument("--dashboard", choices=known, default="run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--after", type=float, default=0.0, metavar="MINUTES", help="also show this time after the run")
    parser.add_argument("--hours", type=float, default=6.0, help="how far back to look for the run")
    given = parser.parse_args()
    now = time.time()
    with httpx.Client(timeout=60) as client:
        ask = asking(given.prometheus, client)
        try:
            start, end = life(ask, given.run, now, 3600 * given.hours)
            end = min(now, end + 60 * given.after)
            step = max(5.0, round((end - start) / POINTS))
            window = Window(step * (start // step), step * (end // step), step)
            drawn(known[given.dashboard], ask, window, run=given.run, **CHOSEN).savefig(given.out, dpi=80)
        except (ValueError, httpx.HTTPError) as error:
            raise SystemExit(str(error)) from None


def life(ask: Ask, run: str, now: float, back: float) -> tuple[float, float]:
    """Unix times at which Prometheus first and last saw the run in the last `back` seconds. Raises NoData."""
    found = ask(f'phema_training_info{{run_id="{run}"}}', Window(now - back, now, 5.0))
    if not found:
        raise NoData(f"Prometheus has not seen the run {run!r} in the last {back / 3600:g} hours")
    return min(float(one["values"][0][0]) for one in found), max(float(one["values"][-1][0]) for one in found)


if __name__ == "__main__":
    main()
