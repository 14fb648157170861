"""Pictures of every page, for docs/web.md: on a desktop and a phone, light and dark.

`python -m tests.pages.screenshots` starts the API over the runs of `seeding.fill`, and takes all pages. With `--url`,
pages of a running service are taken. Names after the options choose pages; `name=path` takes another page.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from phema.shared.wiring import store_from
from tests.api.process import running
from tests.fixtures.browser import opened_browser
from tests.pages import studies
from tests.pages.conftest import Seeded
from tests.pages.seeding import fill

FOLDER = Path(__file__).parents[2] / "docs" / "pictures" / "pages"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SCHEMES = ("light", "dark")
_DRAWN = "[...document.querySelectorAll('[data-chart]:not([hidden]) svg')].every(one => one.querySelector('path'))"
MOST_PIXELS = 2600
"""Height of the highest picture: of longer pages, the beginning."""
COLOURS = 160
PATIENCE_MS = 180_000
"""The first figure of a service takes some time to draw."""

PAGES = {
    "runs": "runs",
    "run": "runs/digits-wide",
    "new-run": "runs/new",
    "compare": "compare?run=digits-constant&run=digits-recipe",
    "evaluations": "evaluations",
    "studies": "studies",
    "models": "models",
    "jobs": "jobs",
    "system": "system",
    "retention": "system/retention?run=digits-constant",
}
"""Name of the picture -> path of the page. `_seeded` adds pages whose paths contain ids."""
EXPLORER = {"explorer": "runs/digits-constant/explorer?sigma_rel=0.13"}
"""Only with --url, because its pictures need a worker."""
AWAITED = {"explorer": "#preview[data-shown]"}
"""What must be on a page before its picture is taken."""
TOPS = {"explorer": 1040}
"""Pages of whose beginning there is another picture, with this height: for the README."""


def take(browser: Browser, url: str, folder: Path, pages: Mapping[str, str]) -> Iterator[Path]:
    """The files that were written."""
    for device, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            context = browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": width, "height": height},
                # `wait_for_function` evaluates a text, which the pages forbid.
                bypass_csp=True,
            )
            # Live parts would be replaced meanwhile.
            context.route("**/v1/events*", lambda route: route.abort())
            for name, path in pages.items():
                page = context.new_page()
                page.set_default_timeout(PATIENCE_MS)
                page.goto(f"{url}/{path}")
                page.evaluate("document.fonts.ready")
                if name in AWAITED:
                    _draw(page, AWAITED[name])
                page.evaluate("for (const one of document.images) one.loading = 'eager'")
                # The stream of events never ends, so wait for pictures and curves instead of a quiet network.
                page.wait_for_function("[...document.images].every(one => one.complete)")
                page.wait_for_function(_DRAWN)
                file = folder / f"{name}-{device}-{scheme}.png"
                png = page.screenshot(full_page=True)
                page.close()
                file.write_bytes(_small(png))
                yield file
                if name in TOPS and device == "desktop":
                    top = folder / f"{name}-top-{scheme}.png"
                    top.write_bytes(_small(png, TOPS[name]))
                    yield top
            context.close()


def _draw(page: Page, awaited: str) -> None:
    """Wait for pictures that a worker draws, which a slow one does only after the button is pressed."""
    page.locator(f"{awaited}, #draw:visible").first.wait_for(timeout=120_000)
    if page.locator("#draw").is_visible():
        page.locator("#draw").click()
    page.locator(awaited).wait_for(timeout=120_000)


def _small(png: bytes, most: int = MOST_PIXELS) -> bytes:
    """The same picture with a palette, and not too high."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, most)))
    file = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


@contextmanager
def _seeded() -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a service with runs and studies, and its pages."""
    with tempfile.TemporaryDirectory(prefix="phema-screenshots-") as folder:
        settings = Settings(state_dir=Path(folder))
        catalog, store = Catalog(settings.catalog_url), store_from(settings)
        catalog.upgrade()
        runs = fill(catalog, store)
        with running(settings) as api:
            seeded = Seeded(api.url, catalog, store, runs)
            sweep, search, model = studies.add_sweep(seeded), studies.add_search(seeded), studies.add_model(seeded)
            with catalog.transaction(read_only=True) as tx:
                evaluation = tx.evaluations.finished(runs[studies.RUN].id, 3)[-1].id
            own = {
                "evaluation": f"evaluations/{evaluation}",
                "sweep": f"sweeps/{sweep}",
                "search": f"searches/{search}",
                "model": f"models/{model}",
                "job": f"jobs/{runs['digits-wide'].job_id}",
            }
            yield api.url, PAGES | own
        catalog.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; its runs must have the names in PAGES")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("pages", nargs="*", help="name, or name=path; all pages by default")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with opened_browser() as browser:
        if given.url:
            files = list(take(browser, given.url.rstrip("/"), given.folder, _chosen(PAGES | EXPLORER, given.pages)))
        else:
            with _seeded() as (url, pages):
                files = list(take(browser, url, given.folder, _chosen(pages, given.pages)))
    for file in files:
        print(f"{file} {file.stat().st_size // 1000} kB")


def _chosen(pages: Mapping[str, str], names: list[str]) -> dict[str, str]:
    if not names:
        return dict(pages)
    pairs = [name.partition("=")[::2] for name in names]
    return {name: path or pages[name] for name, path in pairs}


if __name__ == "__main__":
    main()
