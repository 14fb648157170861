"""The web pages over real services: train, watch, move the slider, evaluate, sweep, search, promote, download."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from safetensors import safe_open

import phema
from tests.e2e.conftest import Service
from tests.fixtures.browser import Visit, opened_browser

LONG_MS = 300_000
"""A loaded machine needs this long for the slowest step: the first images of a training."""
RUN = "from-the-page"
_SOME = re.compile(".+")


@pytest.mark.timeout(1200)
def test_from_a_new_run_to_a_downloaded_model_in_the_browser(service: Service, tmp_path: Path) -> None:
    with opened_browser() as browser:
        seen = _open(browser, f"{service.url}/runs/new")
        _train(seen.page)
        _watch(seen.page)
        page = seen.page
        page.locator("a.primary", has_text="EMA explorer").click()
        _move_the_slider(page)
        _evaluate_sweep_and_search(page)
        _promote_and_download(page, tmp_path)
        assert seen.complaints == []
        assert seen.hosts == {urlsplit(service.url).netloc}
    with phema.Client(service.url) as client:
        [model] = client.models.list(name="best-digits")
        assert model.run == RUN
        assert [one.state for one in client.sweeps.list(run=RUN)] == ["succeeded"]
        assert [one.state for one in client.searches.list(run=RUN)] == ["succeeded"]


def _open(browser: Browser, url: str) -> Visit:
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(LONG_MS)
    seen = Visit(page)
    page.goto(url)
    return seen


def _train(page: Page) -> None:
    page.locator("#preset").select_option("digits-tiny")
    for name, value in (("#name", RUN), ("#total", "5120"), ("#batch", "64"), ("#every", "1280"), ("#seed", "7")):
        page.locator(name).fill(value)
    page.locator("form button.primary").click()
    page.wait_for_url(f"**/runs/{RUN}")


def _watch(page: Page) -> None:
    """The page follows the training by itself: nothing here reloads it."""
    state = page.locator(".state").first
    expect(page.locator("section[data-chart=loss] path.line").first).to_have_attribute("d", _SOME, timeout=LONG_MS)
    expect(state).to_have_text("succeeded", timeout=LONG_MS)


def _move_the_slider(page: Page) -> None:
    picture = page.locator("#preview")
    draw = page.locator("#draw")
    expect(picture.or_(draw).first).to_be_visible(timeout=LONG_MS)
    if draw.is_visible():
        draw.click()  # a slow machine
    expect(picture).to_have_attribute("data-shown", _SOME, timeout=LONG_MS)
    before = {
        "picture": picture.get_attribute("src"),
        "curve": page.locator("#profile-plot path.area").get_attribute("d"),
        "error": page.locator("[data-fact=predicted_error]").inner_text(),
    }
    page.locator("#sigma-slider").focus()
    page.keyboard.press("PageUp")
    expect(page.locator("#profile-plot path.area")).not_to_have_attribute("d", before["curve"] or "", timeout=LONG_MS)
    expect(page.locator("[data-fact=predicted_error]")).not_to_have_text(before["error"], timeout=LONG_MS)
    value = page.locator("#sigma_rel").input_value()
    page.wait_for_url(f"**sigma_rel={value}**")
    fresh = page.locator(f"#preview[data-shown='σ_rel {value}']")
    expect(fresh.or_(draw).first).to_be_visible(timeout=LONG_MS)
    if draw.is_visible():
        draw.click()
    expect(fresh).to_be_visible(timeout=LONG_MS)
    assert picture.get_attribute("src") != before["picture"]
    assert picture.evaluate("image => image.naturalWidth") > 30


def _dialog(page: Page, name: str, fields: dict[str, str]) -> None:
    page.locator(f"[data-dialog={name}]").click()
    dialog = page.locator(f"#{name}")
    for field, value in fields.items():
        dialog.locator(f"[name={field}]").fill(value)
    dialog.locator("button.primary").click()
    expect(dialog).to_be_hidden(timeout=LONG_MS)


def _evaluate_sweep_and_search(page: Page) -> None:
    sentence = page.locator("#measured-sentence")
    _dialog(page, "evaluate", {"num_samples": "128", "num_steps": "4"})
    expect(sentence).to_contain_text("Best:", timeout=LONG_MS)
    _dialog(page, "sweep", {"sigma_rel": "0.05, 0.1, 0.2", "num_samples": "128", "num_steps": "4"})
    expect(page.locator("#measured-plot path.points").first).to_be_visible()
    expect(page.locator("#measured-lineage a")).to_have_count(4, timeout=LONG_MS)
    _dialog(page, "search", {"budget": "1500", "num_steps": "4"})
    expect(page.locator("#stored .work li", has_text="search").locator(".succeeded")).to_be_visible(timeout=LONG_MS)


def _promote_and_download(page: Page, folder: Path) -> None:
    _dialog(page, "promote", {"name": "best-digits", "description": "Chosen with the slider."})
    expect(page.locator("#toast")).to_contain_text("best-digits:1")
    with page.expect_download() as download:
        page.locator("#download").click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    with safe_open(file, "np") as weights:
        assert any(name.startswith("unet.") for name in weights.keys())  # noqa: SIM118  # it is no dict
