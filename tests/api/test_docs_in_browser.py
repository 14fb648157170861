"""The page /docs works in a browser, under its Content-Security-Policy and without any other host."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from tests.api.process import running
from tests.fixtures.browser import visiting


def test_the_page_lists_all_requests_and_sends_one(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    catalog = Catalog(settings.catalog_url)
    catalog.upgrade()
    catalog.close()
    with running(settings) as api, visiting(f"{api.url}/docs") as visit:
        page = visit.page
        page.wait_for_selector(".opblock")
        assert page.locator(".opblock").count() > 30
        path = page.locator('[data-path="/v1/presets"]')
        presets = page.locator(".opblock").filter(has=path)
        path.click()
        presets.get_by_role("button", name="Try it out").click()
        presets.get_by_role("button", name="Execute").click()
        answer = presets.locator(".live-responses-table .response-col_description")
        answer.get_by_text("digits-tiny").first.wait_for()
        assert visit.complaints == []
        assert visit.hosts == {urlsplit(api.url).netloc}
