"""Dashboards as rows of panels, each with title, unit and queries, and their JSON for Grafana."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

PROVISIONED = {"type": "prometheus", "uid": "phema"}
"""Data source of provisioning/datasources/prometheus.yml."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
"""The data source that is chosen above the dashboard."""
COLUMNS = 24
"""Of Grafana's grid."""

Kind = Literal["timeseries", "stat", "bargauge"]
Limits = tuple[tuple[float | None, str], ...]
"""(value, colour): a number has the colour of the largest value below it; the first has no value."""
NONE_IS_GOOD: Limits = ((None, "green"), (1.0, "red"))


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the name of its series; `{{label}}` is a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    """Grafana's name of it: `short`, `s`, `bytes`, `Bps`, `percentunit`, …"""
    queries: tuple[Query, ...]
    about: str = ""
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    log: bool = False
    stack: bool = False
    limits: Limits = ((None, "text"),)
    low: float | None = 0.0
    """The axis covers at least `low` to `high`, so that small changes look small."""
    high: float | None = None
    words: tuple[tuple[float, str], ...] = ()
    """Texts that replace values."""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Event:
    """Vertical lines wherever the expression is above zero, looked at every `step` seconds."""

    name: str
    expr: str
    color: str
    text: str
    step: int = 15


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    events: tuple[Event, ...] = ()
    variables: tuple[dict[str, Any], ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)

    def json(self) -> dict[str, Any]:
        """What Grafana's provisioning reads."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["phema"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "phema",
                    "tags": ["phema"],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "annotations": {"list": [_event(event) for event in self.events]},
            "templating": {"list": [_sources(), *self.variables]},
            "panels": self._placed(),
        }

    def _placed(self) -> list[dict[str, Any]]:
        ids, placed, top = count(1), [], 0
        for row in self.rows:
            grid = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
            placed.append(
                {
                    "id": next(ids),
                    "type": "row",
                    "title": row.title,
                    "gridPos": grid,
                    "collapsed": False,
                    "panels": [],
                }
            )
            top, left, tallest = top + 1, 0, 0
            for panel in row.panels:
                if left + panel.width > COLUMNS:
                    top, left, tallest = top + tallest, 0, 0
                grid = {"x": left, "y": top, "w": panel.width, "h": panel.height}
                placed.append({"id": next(ids), "gridPos": grid, **_panel(panel)})
                left, tallest = left + panel.width, max(tallest, panel.height)
            top += tallest
        return placed


def one(title: str, unit: str, expr: str, legend: str = "", **how: Any) -> Panel:
    """A panel of one query; `how` are further fields of Panel."""
    return Panel(title, unit, (Query(expr, legend),), **how)


def stat(title: str, unit: str, expr: str, about: str = "", width: int = 4, **how: Any) -> Panel:
    """One number, as it is now; `how` are further fields of Panel."""
    return Panel(title, unit, (Query(expr),), about=about, kind="stat", width=width, height=4, **how)


def mean(metric: str, by: str, selector: str = "") -> str:
    """Mean of all observations of a histogram so far. For rare events, whose quantiles would only show the buckets."""
    some = f"{{{selector}}}" if selector else ""
    # Over the whole range shown: most rate intervals hold no observation.
    total, count = (f"sum by ({by}) (last_over_time({metric}_{part}{some}[$__range]))" for part in ("sum", "count"))
    return or_zero(f"{total} / ({count} > 0)", by.split(",")[0], "none yet")


def or_zero(expr: str, label: str, name: str = "none") -> str:
    """`expr`, or a series of zeros called `name` where `expr` has none, so that the panel is not empty."""
    return f'{expr} or on () label_replace(vector(0), "{label}", "{name}", "", "")'


def choice(name: str, label: str, values: tuple[str, ...]) -> dict[str, Any]:
    """A variable with fixed values, the first one chosen."""
    options = [{"text": value, "value": value, "selected": value == values[0]} for value in values]
    return {
        "type": "custom",
        "name": name,
        "label": label,
        "query": ",".join(values),
        "options": options,
        "current": options[0],
        "includeAll": False,
        "multi": False,
    }


def found(name: str, label: str, expr: str, regex: str) -> dict[str, Any]:
    """A variable whose values are the series of `expr`; `regex` has the groups `text` and `value`."""
    query = f"query_result({expr})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "regex": f"/{regex}/",
        # Refresh when the time range changes: runs that ended before it are not offered.
        "refresh": 2,
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }


def concrete(expr: str, **variables: str) -> str:
    """The expression as Grafana would send it for one hour at a resolution of 15 s, to be asked of Prometheus.

    Raises ValueError when it has a variable that is not given.
    """
    known = {"__rate_interval": "1m", "__range": "1h", "__interval": "15s", **variables}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in known:
            raise ValueError(f"no value for ${name}")
        return known[name]

    return re.sub(r"\$(\w+)", value, expr)


def _sources() -> dict[str, Any]:
    """The variable `datasource`: every Prometheus of this Grafana, phema's own chosen first."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": PROVISIONED["type"],
        "current": {"selected": True, "text": PROVISIONED["uid"], "value": PROVISIONED["uid"]},
        "refresh": 1,
        "includeAll": False,
        "multi": False,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    # Always set: Grafana's default shows values above 80 in red.
    steps = [{"color": colour, "value": limit} for limit, colour in panel.limits]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
    }
    if panel.words:
        texts = {f"{value:g}": {"text": text, "index": index} for index, (value, text) in enumerate(panel.words)}
        defaults["mappings"] = [{"type": "value", "options": texts}]
    options: dict[str, Any]
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 25 if panel.stack else 0,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
            "thresholdsStyle": {"mode": "dashed" if len(panel.limits) > 1 else "off"},
        }
        for name, soft in (("axisSoftMin", panel.low), ("axisSoftMax", panel.high)):
            if soft is not None and not panel.log:
                defaults["custom"][name] = soft
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        if panel.kind == "bargauge":
            defaults |= {"min": 0, "max": 1}
            options |= {"orientation": "horizontal", "displayMode": "basic"}
        else:
            options |= {"colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "center"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "name": event.name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": event.color,
        # `target` is for current versions of Grafana, `expr` for older ones.
        "target": {"refId": "Anno", "expr": event.expr, "interval": f"{event.step}s"},
        "expr": event.expr,
        "step": f"{event.step}s",
        "titleFormat": event.name,
        "textFormat": event.text,
    }
