"""What a Prometheus answers to the queries of a dashboard, as Grafana would ask them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.grafana.panels import Dashboard, Event, Panel, concrete

SCRAPE_SECONDS = 5.0
"""`timeInterval` of provisioning/datasources/prometheus.yml, from which Grafana reckons $__rate_interval."""


class NoData(ValueError):
    """A panel of a dashboard has nothing to show; the message names it and what it asked."""


@dataclass(frozen=True)
class Window:
    """A range of time; all in seconds, `start` and `end` since 1970."""

    start: float
    end: float
    step: float

    def variables(self) -> dict[str, str]:
        rate = max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
        return {
            "__interval": f"{round(self.step)}s",
            "__rate_interval": f"{round(rate)}s",
            "__range": f"{round(self.end - self.start)}s",
        }


@dataclass(frozen=True)
class Series:
    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]


Ask = Callable[[str, Window], list[Series]]
"""Answers a concrete expression over a window."""


def series(result: list[dict[str, Any]]) -> list[Series]:
    """The `data.result` of an answer to query_range."""
    found = []
    for one in result:
        times, values = zip(*one["values"], strict=True)
        found.append(Series(one["metric"], tuple(map(float, times)), tuple(map(float, values))))
    return found


def asking(url: str, client: httpx.Client) -> Callable[[str, Window], list[dict[str, Any]]]:
    """Asks the Prometheus at `url`.

    The function raises ValueError with Prometheus's own words when it refuses an expression, and httpx.HTTPError when
    it cannot be reached.
    """

    def ask(expr: str, window: Window) -> list[dict[str, Any]]:
        asked = {"query": expr, "start": window.start, "end": window.end, "step": window.step}
        answer = client.post(f"{url.rstrip('/')}/api/v1/query_range", data=asked)
        if answer.status_code in (400, 422, 503):
            raise ValueError(f"Prometheus refuses {expr!r}: {answer.json()['error']}")
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    return ask


def called(legend: str, labels: Mapping[str, str]) -> str:
    """A series' name: `{{label}}` of the legend is the label's value."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), legend)


def lines(dashboard: Dashboard, panel: Panel, ask: Ask, window: Window, **variables: str) -> list[tuple[str, Series]]:
    """Every series of a panel with its name. Raises NoData."""
    found = []
    for query in panel.queries:
        for one in ask(concrete(query.expr, **window.variables(), **variables), window):
            if any(map(math.isfinite, one.values)):
                found.append((called(query.legend, one.labels), one))
    if not found:
        exprs = " and ".join(query.expr for query in panel.queries)
        raise NoData(f"panel {panel.title!r} of {dashboard.title!r} has no data: nothing answers {exprs}")
    return found


def happened(event: Event, ask: Ask, window: Window, **variables: str) -> list[tuple[float, float]]:
    """When: spans of time, which Grafana makes of values that are at most one step apart."""
    every = Window(window.start, window.end, event.step)
    spans: list[tuple[float, float]] = []
    for one in ask(concrete(event.expr, **every.variables(), **variables), every):
        begun: float | None = None
        last = 0.0
        for time, value in zip(one.times, one.values, strict=True):
            if not value > 0:
                continue
            if begun is not None and time - last > event.step:
                spans.append((begun, last))
                begun = None
            begun, last = time if begun is None else begun, time
        if begun is not None:
            spans.append((begun, last))
    return sorted(spans)
