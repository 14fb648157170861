"""The site of the documentation: it builds without a warning, loads nothing from elsewhere, and fits the code."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import phema
from tests.docs.blocks import ROOT
from tests.fixtures.browser import visiting

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(#[^)\s]*)?\)")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. With `--strict`, broken links and anchors and pages outside the navigation are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pages_load_nothing_from_elsewhere_and_can_be_searched(address: str) -> None:
    with visiting(f"{address}/index.html") as visit:
        for name in ("concepts/ema-profiles.html", "reference/python.html", "architecture.html"):
            visit.page.goto(f"{address}/{name}")
            broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
            assert visit.page.evaluate(broken) == []
        visit.page.keyboard.press("/")
        visit.page.keyboard.type("autoguidance")
        found = visit.page.locator(".md-search-result__item").first
        found.wait_for()
        assert "guid" in found.inner_text().lower()
        assert visit.hosts <= {address.removeprefix("http://"), ""}
        assert visit.complaints == []


def test_pages_outside_docs_are_part_of_the_site(site: Path) -> None:
    assert 'href="training.html' in (site / "index.html").read_text() or (site / "training.html").exists()
    assert "The house" in (site / "contributing.html").read_text()
    assert "reproduce.html#averaging-instead-of-decay" in (site / "benchmarks.html").read_text()
    assert 'href="source/examples/classifier.py.html"' in (site / "own-training.html").read_text()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    shown = set(re.findall(r"^::: (\S+)", page, re.MULTILINE))
    wanted = {f"{phema._MODULES[name]}.{name}" for name in phema.__all__} - {"phema.errors.PhemaError"}
    assert wanted | {"phema.errors"} <= shown
    html = (site / "reference" / "python.html").read_text()
    assert [name for name in shown if f'id="{name}"' not in html] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "deploy/README.md"])
def test_links_of_pages_outside_docs_work_on_github(page: str) -> None:
    text = (ROOT / page).read_text()
    for target, anchor in LINK.findall(text):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor[1:] in {_slug(heading) for heading in headings}, f"{page} links to {target}{anchor}"


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _script(name: str) -> Any:
    spec = spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_house_is_drawn_as_it_is() -> None:
    module = _script("draw_house")
    drawn = {name: draw() for name, draw in module.PICTURES.items()}
    stored = {name: (module.FOLDER / name).read_text() for name in drawn}
    assert drawn == stored, "run python docs/site/draw_house.py"
    rooms = {room for layer in module.layers() for room in layer}
    assert rooms == set(module.WORDS), "draw_house.WORDS says what lives in each room"


def test_the_pictures_of_concepts_show_what_the_code_computes() -> None:
    module = _script("draw_concepts")
    assert {path.name for path in module.FOLDER.iterdir()} == set(module.PICTURES)
    for name, draw in module.PICTURES.items():
        drawn, stored = (np.asarray(Image.open(file), float) for file in (BytesIO(draw()), module.FOLDER / name))
        assert drawn.shape == stored.shape, name
        assert np.abs(drawn - stored).mean() < 0.5, f"run python docs/site/draw_concepts.py: {name} differs"


def test_messages_under_solving_problems_exist() -> None:
    """A heading in code marks is a piece of a message. Pieces between marks stand for what changes."""
    page = (DOCS / "troubleshooting.md").read_text()
    code = "\n".join(
        path.read_text() for room in ("phema", "services", "shared") for path in (ROOT / room).rglob("*.py")
    )
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that continue on the next line
    pieces = [
        piece for title in re.findall(r"^### (.*)$", page, re.MULTILINE) for piece in re.findall(r"`(.+?)`", title)
    ]
    assert len(pieces) > 10
    assert [piece for piece in pieces if piece not in code] == []


def test_every_benchmark_is_among_all_figures() -> None:
    listed = re.findall(r"python -m benchmarks\.(\w+)", (DOCS / "measured.md").read_text())
    run = re.search(r"^BENCHMARKS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert run is not None
    assert set(run[1].replace("\\", " ").split()) <= set(listed)


def test_citations_name_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == "Apache-2.0"
    assert f"version = {{{version}}}" in (DOCS / "about" / "cite.md").read_text()
