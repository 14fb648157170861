"""The browser's part of `benchmarks.explorer`: what a person waits for who moves the slider, and what pages cost."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.service import Row, row
from phema.client.client import Client
from tests.fixtures.browser import chromium

MOVES = 12
"""Steps of the slider, each to another EMA length."""
OPEN_PAGES = 50
IDLE_SECONDS = 60.0
_WAIT_MS = 120_000
_LISTEN = """() => {
  window.times = [];
  const note = (what) => times.push([what, performance.now()]);
  document.addEventListener("input", () => note("input"), true);
  const drawn = (what) => requestAnimationFrame(() => requestAnimationFrame(() => note(what)));
  document.addEventListener("phema:curves", () => drawn("curves"));
  document.addEventListener("phema:preview", () => drawn("pictures"));
}"""
"""Notes the time of each event of the slider, and of the second frame after the page has drawn its answer."""


def browser(client: Client, run: str, options: argparse.Namespace) -> Iterator[Row]:
    """The slider with the keyboard, then every page once, then many open explorers. The browser uses CPUs as well."""
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield from _slider(opened, f"{client.url}/runs/{run}/explorer?num_steps={options.num_steps}")
            yield from _pages(opened, client, run)
        finally:
            opened.close()
        yield from _open_pages(play, client, run, options)


def _slider(opened: Browser, url: str) -> Iterator[Row]:
    page = opened.new_page(viewport={"width": 1280, "height": 900})
    # The seeds are new each time, so that no picture comes from the catalog.
    page.goto(f"{url}&seed={int(time.time()) % 2**30}&sigma_rel=0.05")
    _draw(page)
    page.evaluate(_LISTEN)
    curves, pictures = [], []
    for _ in range(MOVES):
        page.locator("#sigma-slider").press("ArrowRight")
        _draw(page)
        noted = dict(reversed(page.evaluate("times.splice(0)")))
        curves.append(noted["curves"] - noted["input"])
        pictures.append(noted["pictures"] - noted["input"])
    yield row("slider to redrawn profile and errors (median)", median(curves), "ms", "<= 100")
    yield row("slider to 16 new pictures (median)", median(pictures) / 1e3, "s", "<= 1")
    page.close()


def _draw(page: Page) -> None:
    """Wait for pictures of the present EMA length; press the button of a network that is too large to follow."""
    shown = page.locator(f"#preview[data-shown='σ_rel {page.locator('#sigma_rel').input_value()}']")
    button = page.locator("#draw:visible")
    shown.or_(button).first.wait_for(timeout=_WAIT_MS)
    if button.count():
        button.click()
    shown.wait_for(timeout=_WAIT_MS)


def _pages(opened: Browser, client: Client, run: str) -> Iterator[Row]:
    paths = ["runs", f"runs/{run}", f"runs/{run}/explorer", "runs/new", f"compare?run={run}", "evaluations", "studies"]
    for path in [*paths, "models", "jobs", "system"]:
        paints, sizes = [], []
        for _ in range(3):
            page = opened.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{client.url}/{path}")
            paint: Any = page.evaluate(_FIRST_PAINT)
            paints.append(float(paint))
            sizes.append(float(page.evaluate(_SIZE)))
            page.close()
        yield row(f"/{path}: first paint (median)", median(paints), "ms", "<= 300")
        yield row(f"/{path}: with scripts and styles, uncompressed", sizes[0] / 1e3, "kB", "<= 200")


_FIRST_PAINT = """() => new Promise((resolve) => {
  const look = (list) => list.getEntriesByName("first-contentful-paint").forEach((one) => resolve(one.startTime));
  new PerformanceObserver(look).observe({ type: "paint", buffered: true });
})"""
_SIZE = (
    "performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource')"
    ".filter(one => /[.](js|css)$/.test(new URL(one.name).pathname)))"
    ".reduce((sum, one) => sum + one.decodedBodySize, 0)"
)


def _open_pages(play: Any, client: Client, run: str, options: argparse.Namespace) -> Iterator[Row]:
    """CPU time of the service's processes while explorers are open and nothing changes. Each page has a context of its
    own, since a browser opens at most six connections to one host in one context."""
    port = int(client.url.rstrip("/").rsplit(":", 1)[1])
    processes = {
        "API": _listening(port),
        "trainer": _with("phema.services.trainer"),
        "worker": _with("phema.services.phema_worker"),
    }
    opened = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
    try:
        for _ in range(options.open_pages):
            page = opened.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{client.url}/runs/{run}/explorer", timeout=_WAIT_MS)
            page.locator("#measured-sentence:not(:empty)").wait_for(timeout=_WAIT_MS)
        before = {name: _seconds(found) for name, found in processes.items()}
        time.sleep(IDLE_SECONDS)
        for name, found in processes.items():
            spent = (_seconds(found) - before[name]) * 60 / IDLE_SECONDS
            target = {"API": "<= 30"}.get(name, "-")
            yield row(f"{options.open_pages} open explorers, nothing changes: {name}", spent, "CPU s per min", target)
    finally:
        opened.close()


def _listening(port: int) -> Sequence[psutil.Process]:
    listening = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return [psutil.Process(one.pid) for one in listening if one.laddr.port == port and one.pid is not None][:1]


def _with(module: str) -> Sequence[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if module in (one.info["cmdline"] or [])]


def _seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)
