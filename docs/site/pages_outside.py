"""Hook of MkDocs: files of the repository outside `docs/` become pages of the site, and links to them work.

On GitHub, pages link to files of the repository by their relative path. MkDocs only knows the files of `docs/`. This
hook adds the pages of `PAGES`, shows every other linked file of the repository as a page with its text, and rewrites
the links.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "deploy/README.md": "cluster.md",
    "examples/choose_the_average.ipynb": "tutorials/notebook.md",
}
"""Pages of the site that are written outside `docs/`: path in the repository, path in the site."""
LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".sh": "bash", ".json": "json"}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2`*\s*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`, and a page for every other file that a page links to."""
    for source, path in PAGES.items():
        files.append(File.generated(config, path, content=_page(source)))
    for file in list(files.documentation_pages()):
        source = _source(file.src_uri)
        for link, _ in _LINK.findall(_FENCE.sub("", _page(source))):
            target = _resolved(source, link)
            path = _shown(target)
            if _is_outside(target) and target not in PAGES and files.get_file_from_path(path) is None:
                inclusion = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, path, content=_listing(target), inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to files of the repository so that they lead to pages of the site."""
    source = _source(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        target = _resolved(source, match[1])
        if not (_is_outside(target) or source in PAGES):
            return match[0]
        path = PAGES.get(target) or (_shown(target) if _is_outside(target) else posixpath.relpath(target, "docs"))
        return posixpath.relpath(path, here or ".") + (match[2] or "")

    return "".join(part if fenced else _LINK.sub(rewritten, part) for fenced, part in _parts(markdown))


def _parts(markdown: str) -> list[tuple[bool, str]]:
    """The text as (is it fenced code?, text)."""
    parts: list[tuple[bool, str]] = []
    end = 0
    for match in _FENCE.finditer(markdown):
        parts += [(False, markdown[end : match.start()]), (True, match[0])]
        end = match.end()
    return [*parts, (False, markdown[end:])]


def _source(page: str) -> str:
    """The path in the repository of a page of the site."""
    return next((source for source, path in PAGES.items() if path == page), f"docs/{page}")


def _resolved(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _is_outside(target: str) -> bool:
    """Whether the path is a file of the repository outside `docs/`."""
    return not target.startswith(("docs/", "../")) and (ROOT / target).is_file()


def _shown(target: str) -> str:
    """The path in the site of the page that shows a file of the repository."""
    return f"source/{target}.md"


def _page(source: str) -> str:
    """The Markdown of a page of `PAGES`. Notebooks become pages without outputs."""
    text = (ROOT / source).read_text()
    if not source.endswith(".ipynb"):
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    parts = [content if kind == "markdown" else f"```python\n{content}\n```" for kind, content in cells]
    return "\n\n".join([*parts, f"The notebook is `{source}` in the repository."]) + "\n"


def _listing(target: str) -> str:
    text = (ROOT / target).read_text()
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
    language = LANGUAGES.get(Path(target).suffix, "")
    return f"# {target}\n\nThis page shows a file of the repository.\n\n{fence}{language}\n{text}{fence}\n"


__all__: list[Any] = ["on_files", "on_page_markdown"]
