"""A dashboard as a picture, drawn from a real Prometheus where no Grafana is at hand.

`python -m deploy.grafana.draw --prometheus URL --run RUN_ID --dashboard run --out FILE.png`
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import matplotlib.dates as dates
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from deploy.grafana.answers import Ask, NoData, Series, Window, asking, happened, lines, series
from deploy.grafana.build import DASHBOARDS
from deploy.grafana.panels import COLUMNS, Dashboard, Panel
from deploy.grafana.units import step, written

CHOSEN = {"weights": "training", "statistic": "max"}
"""Values of the run dashboard's other variables."""
DPI = 110
CELL = (0.62, 0.32)
"""Inches of a column and a row of Grafana's grid."""
TITLE = 0.62
"""Inches above the grid."""
PAGE, CARD, INK, FAINT, GRID = "#f4f5f7", "#ffffff", "#1f2430", "#6b7280", "#e3e6ea"
PALETTE = (
    "#1f6fb4", "#d9622b", "#2f8a4a", "#8b4fb3", "#c23b52", "#12939a", "#a9861b", "#5b6ee1", "#7a5b3e", "#d1479b",
)  # fmt: skip
NAMED = {"green": "#2f8a4a", "yellow": "#b88a00", "orange": "#d9622b", "red": "#c9252d", "blue": "#2b6cb0",
         "purple": "#7b3fa8", "text": INK}  # fmt: skip
"""Grafana's colours, dark enough for a white ground."""
STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
POINTS = 150
"""A panel's line has about so many points at most."""


def picture(dashboard: Dashboard, ask: Ask, window: Window, **variables: str) -> bytes:
    """PNG of the dashboard over `window` (UTC). Raises NoData naming the first panel that would be empty."""
    return _png(drawn(dashboard, ask, window, **variables))


def drawn(dashboard: Dashboard, ask: Ask, window: Window, **variables: str) -> Figure:
    """The same as a figure, whose axes are its time series and bar gauges. Raises NoData."""
    placed = dashboard.json()["panels"]
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in placed)
    size = (COLUMNS * CELL[0] + 0.2, height * CELL[1] + TITLE + 0.1)
    events = [(event.name, NAMED[event.color], happened(event, ask, window, **variables)) for event in dashboard.events]
    # Everything is asked before anything is drawn: an empty panel is told of at once.
    panels = iter([(panel, lines(dashboard, panel, ask, window, **variables)) for panel in dashboard.panels])
    with rc_context({"font.size": 8, "text.color": INK, "axes.edgecolor": "#b9c0ca", "axes.linewidth": 0.7}):
        figure = Figure(size, facecolor=PAGE)
        _head(figure, dashboard, window, variables, events)
        for one in placed:
            grid = one["gridPos"]
            card = _Card(figure, grid["x"] * CELL[0] + 0.1, TITLE + grid["y"] * CELL[1], grid["w"] * CELL[0],
                         grid["h"] * CELL[1])  # fmt: skip
            if one["type"] == "row":
                card.text(0.06, 0.1, one["title"], size=10, weight="bold")
                continue
            panel, found = next(panels)
            card.frame(panel.title)
            if panel.kind == "stat":
                _stat(card, panel, found)
            elif panel.kind == "bargauge":
                _bars(card, panel, found)
            else:
                _curves(card, panel, found, window, events)
        return figure


class _Card:
    """A panel's place on the page, in inches from the page's upper left corner."""

    def __init__(self, figure: Figure, x: float, y: float, width: float, height: float) -> None:
        self.figure, self.x, self.y, self.width, self.height = figure, x, y, width, height
        self._page = (float(figure.get_figwidth()), float(figure.get_figheight()))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (self.x + x) / self._page[0], 1 - (self.y + y) / self._page[1]

    def text(self, x: float, y: float, text: str, size: float = 8, **how: str) -> None:
        """`y` is the text's upper edge."""
        self.figure.text(*self._at(x, y), text, fontsize=size, **{"va": "top", **how})

    def frame(self, title: str) -> None:
        gap = 0.035
        corner = self._at(gap, self.height - gap)
        extent = ((self.width - 2 * gap) / self._page[0], (self.height - 2 * gap) / self._page[1])
        self.figure.add_artist(
            Rectangle(corner, *extent, facecolor=CARD, edgecolor="#d5dae1", linewidth=0.8, zorder=-1)
        )
        self.text(0.12, 0.1, title, size=8.5, weight="bold")

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Inside the margins."""
        corner = self._at(left, self.height - bottom)
        extent = ((self.width - left - right) / self._page[0], (self.height - top - bottom) / self._page[1])
        return self.figure.add_axes((*corner, *extent), facecolor=CARD)


Events = Sequence[tuple[str, str, Sequence[tuple[float, float]]]]


def _head(figure: Figure, dashboard: Dashboard, window: Window, variables: Mapping[str, str], events: Events) -> None:
    card = _Card(figure, 0.1, 0, COLUMNS * CELL[0], TITLE)
    card.text(0.06, 0.1, dashboard.title, size=13, weight="bold")
    begun, ended = (datetime.fromtimestamp(at, UTC) for at in (window.start, window.end))
    said = [f"{name} {value}" for name, value in variables.items()] if dashboard.variables else []
    said.append(f"{begun:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC")
    card.text(0.06, 0.38, "  ·  ".join(said), color=FAINT)
    x = card.width - 0.06
    for name, colour, spans in reversed(events):
        label = f"┆ {name}: {len(spans)}"
        card.text(x, 0.38, label, color=colour, ha="right")
        x -= _width(label, 8) + 0.22


def _stat(card: _Card, panel: Panel, found: list[tuple[str, Series]]) -> None:
    each = card.width / len(found)
    for index, (_, one) in enumerate(found):
        middle = (index + 0.5) * each
        value = one.values[-1]
        name = ", ".join(one.labels.values()) if len(found) > 1 else ""
        text = dict(panel.words).get(value) or written(value, panel.unit)
        size = min(21.0, 72 * 1.5 * each / max(4, len(text)))
        colour = NAMED[panel.colour(value)]
        card.text(middle, card.height * 0.42, text, size=size, color=colour, ha="center", weight="bold")
        card.text(middle, card.height * 0.78, name, color=FAINT, ha="center")


def _bars(card: _Card, panel: Panel, found: list[tuple[str, Series]]) -> None:
    axes = card.axes(0.75, 0.5, 0.75, 0.35)
    for index, (name, one) in enumerate(reversed(found)):
        value = one.values[-1]
        colour = NAMED[panel.colour(value)]
        axes.barh(index, 1.0, color=GRID, height=0.55)
        axes.barh(index, value, color=colour, height=0.55)
        axes.text(-0.03, index, name, ha="right", va="center")
        axes.text(1.03, index, written(value, panel.unit), va="center", color=colour, weight="bold")
    axes.set(xlim=(0, 1), ylim=(-1, len(found)))
    axes.set_axis_off()


def _curves(card: _Card, panel: Panel, found: list[tuple[str, Series]], window: Window, events: Events) -> None:
    names = [name for name, _ in found]
    rows = _legend_rows(names, card.width - 0.3)
    axes = card.axes(0.72, 0.42, 0.18, 0.38 + 0.17 * len(rows))
    times = np.arange(window.start, window.end + window.step / 2, window.step)
    columns = [_on(times, one) for _, one in found]
    clock = [datetime.fromtimestamp(at, UTC) for at in times]
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(found))]
    axes.set_axisbelow(True)
    if panel.stack:
        base = np.zeros(len(times))
        for column, colour in zip(columns, colours, strict=True):
            top = base + np.nan_to_num(column)
            axes.fill_between(clock, base, top, color=colour, alpha=0.25, linewidth=0)
            axes.plot(clock, np.where(np.isnan(column), np.nan, top), color=colour, linewidth=1.1)
            base = top
    else:
        for column, colour in zip(columns, colours, strict=True):
            points = "." if np.count_nonzero(~np.isnan(column)) < 20 else None
            axes.plot(clock, column, color=colour, linewidth=1.3, marker=points, markersize=4)
    _scale(axes, panel, [*columns, base] if panel.stack else columns)
    for limit, colour_name in panel.limits[1:]:
        if axes.get_ylim()[0] <= limit <= axes.get_ylim()[1]:
            axes.axhline(limit, color=NAMED[colour_name], linewidth=1, linestyle=(0, (5, 3)))
    for _, colour, spans in events:
        for begun, ended in spans:
            at, until = (datetime.fromtimestamp(moment, UTC) for moment in (begun, ended))
            axes.axvline(at, color=colour, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.8)
            if until > at:
                axes.axvspan(at, until, color=colour, alpha=0.06, linewidth=0)
    axes.set_xlim(datetime.fromtimestamp(window.start, UTC), datetime.fromtimestamp(window.end, UTC))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=max(4, int(card.width * 1.3))))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M" if window.end - window.start > 600 else "%H:%M:%S"))
    axes.tick_params(length=0, labelsize=7, labelcolor=FAINT)
    axes.tick_params(axis="x", pad=6)
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for row, indices in enumerate(rows):
        x = 0.16
        for index in indices:
            y = card.height - 0.14 - 0.17 * (len(rows) - row)
            card.text(x, y, "━", size=9, color=colours[index], weight="bold")
            card.text(x + 0.2, y, names[index], size=7.5)
            x += _legend_width(names[index])


def _on(times: np.ndarray, one: Series) -> np.ndarray:
    """The series' values at `times`, NaN where it has none, so that its line breaks there."""
    known = {round(at): value for at, value in zip(one.times, one.values, strict=True)}
    return np.array([known.get(round(at), np.nan) for at in times])


def _scale(axes: Axes, panel: Panel, columns: list[np.ndarray]) -> None:
    written_here = FuncFormatter(lambda value, _: written(value, panel.unit))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        low, high = axes.get_ylim()
        if high / low < 1000:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    else:
        values = np.concatenate(columns)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        low = low if panel.low is None else min(low, panel.low)
        high = high if panel.high is None else max(high, panel.high)
        high = high if high > low else low + (abs(low) or 1.0)
        room = 0.06 * (high - low)
        axes.set_ylim(low if low == panel.low else low - room, high + room)
        size = step(max(abs(low), abs(high)), panel.unit)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low / size, high / size) * size
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high + room]))
    axes.yaxis.set_major_formatter(written_here)


def _width(text: str, size: float) -> float:
    """Inches."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72


def _legend_width(name: str) -> float:
    return 0.38 + _width(name, 7.5)


def _legend_rows(names: list[str], width: float) -> list[list[int]]:
    rows: list[list[int]] = [[]]
    used = 0.0
    for index, name in enumerate(names):
        if used + _legend_width(name) > width and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append(index)
        used += _legend_width(name)
    return rows


def _png(figure: Figure) -> bytes:
    """With the 256 colours that are most frequent: half the bytes, and the lines keep their own."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI, facecolor=PAGE)
    image = Image.open(raw).convert("RGB")
    frequent = sorted(image.getcolors(image.width * image.height), reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in frequent for part in colour])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return small.getvalue()


def life(ask: Ask, run: str, now: float, back: float) -> tuple[float, float]:
    """When Prometheus first and last saw the run, seconds since 1970, in the last `back` seconds. Raises NoData."""
    found = ask(f'phema_training_info{{run_id="{run}"}}', Window(now - back, now, SECONDS_OF_LIFE))
    if not found:
        raise NoData(f"Prometheus has not seen the run {run!r} in the last {back / 3600:g} hours")
    return min(one.times[0] for one in found), max(one.times[-1] for one in found)


SECONDS_OF_LIFE = 5.0


def main() -> None:
    known = {dashboard.uid.removeprefix("phema-"): dashboard for dashboard in DASHBOARDS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True, help="its URL")
    parser.add_argument("--run", required=True, help="id of a run: the picture shows its time")
    parser.add_argument("--dashboard", choices=known, default="run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--after", type=float, default=0.0, metavar="MINUTES", help="show so much after the run as well"
    )
    parser.add_argument("--hours", type=float, default=6.0, help="how far back to look for the run")
    given = parser.parse_args()
    now = datetime.now(UTC).timestamp()
    with httpx.Client(timeout=60) as client:
        answer = asking(given.prometheus, client)

        def ask(expr: str, window: Window) -> list[Series]:
            return series(answer(expr, window))

        try:
            begun, ended = life(ask, given.run, now, 3600 * given.hours)
            ended = min(now, ended + 60 * given.after)
            every = next((each for each in STEPS if (ended - begun) / each <= POINTS), STEPS[-1])
            dashboard = known[given.dashboard]
            variables = {"run": given.run, **CHOSEN} if dashboard.variables else {}
            window = Window(every * (begun // every), every * (ended // every), every)
            given.out.write_bytes(picture(dashboard, ask, window, **variables))
        except (ValueError, httpx.HTTPError) as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
