"""One service with seeded runs, and one browser, for all tests of a module. Tests may add rows, but remove none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from phema.shared.catalog import Catalog, Run
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.wiring import store_from
from tests.api.process import running
from tests.fixtures.browser import Visit, opened_browser
from tests.pages.seeding import fill

Scheme = Literal["light", "dark"]
DESKTOP, PHONE = 1280, 390
"""Widths of windows, in pixels."""


@dataclass(frozen=True)
class Seeded:
    """A running API without a token, and direct access to its catalog (SQLite) and store."""

    url: str
    catalog: Catalog
    store: ObjectStore
    runs: dict[str, Run]


def _settings(folder: Path, template: Path) -> Settings:
    shutil.copy(template, folder / "catalog.db")
    # Nobody reads the pipe of the log before the end, so only little may be written to it.
    return Settings(state_dir=folder, log_level="error")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Seeded]:
    """See `seeding.fill` for its runs."""
    settings = _settings(tmp_path_factory.mktemp("seeded"), sqlite_template)
    catalog, store = Catalog(settings.catalog_url), store_from(settings)
    runs = fill(catalog, store)
    with running(settings) as api:
        yield Seeded(api.url, catalog, store, runs)
    catalog.close()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Seeded]:
    """A service without any run."""
    settings = _settings(tmp_path_factory.mktemp("fresh"), sqlite_template)
    catalog = Catalog(settings.catalog_url)
    with running(settings) as api:
        yield Seeded(api.url, catalog, store_from(settings), {})
    catalog.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """`visit(url, scheme="light", width=DESKTOP)` opens a page in a window of its own, closed after the test."""
    with ExitStack() as stack:

        def open_one(url: str, scheme: Scheme = "light", width: int = DESKTOP) -> Visit:
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
            stack.callback(context.close)
            context.set_default_timeout(120_000)  # a loaded machine opens a page slowly
            opened = Visit(context.new_page())
            opened.page.goto(url)
            return opened

        yield open_one
