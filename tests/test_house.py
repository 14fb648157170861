"""The arrows of the house, and what must be documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from phema.shared.settings import Settings

ROOT = Path(__file__).parents[1]


def test_the_arrows_run_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "module",
    [
        "phema",
        "phema.client.client",
        "phema.command.main",
        "phema.services.api.app",
        "phema.shared.edm2.averaging.posthoc",
        "phema.shared.snapshots.foreign.published_pickles",
    ],
)
def test_the_light_rooms_import_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'ray') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(PHEMA_[A-Z0-9_]+)` \| ([^|]*) \|", (ROOT / "docs/settings.md").read_text(), re.M))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`" if str(field.default) else "empty"
        expected[f"PHEMA_{name.upper()}"] = default
    assert {name: cell.strip() for name, cell in rows.items()} == expected


def test_every_make_verb_is_documented() -> None:
    verbs = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert [verb for verb in verbs if f"make {verb}" not in text] == []


SETTINGS = {f"PHEMA_{name.upper()}" for name in Settings.model_fields}
CLIENT_ONLY = {"PHEMA_URL"}
"""What the client and the command read themselves; `docs/settings.md` documents each."""
VARIABLE = re.compile(r"\bPHEMA_[A-Z0-9_]*[A-Z0-9]\b")


def _code() -> dict[str, str]:
    """The text of every module, by its path."""
    paths = [path for folder in ("phema", "services", "shared") for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def test_every_environment_variable_of_ours_is_a_setting() -> None:
    """A variable that code reads past the settings class would be undocumented and unchecked."""
    used = {name: path for path, text in _code().items() for name in VARIABLE.findall(text)}
    assert {name: path for name, path in used.items() if name not in SETTINGS | CLIENT_ONLY} == {}


@pytest.mark.parametrize("name", sorted(CLIENT_ONLY))
def test_every_variable_of_the_client_is_read_and_documented(name: str) -> None:
    is_read = re.compile(rf"""\benv(?:iron)?(?:\.get\(|\[)"{name}"|\benvvar="{name}\"""")
    assert [path for path, text in _code().items() if is_read.search(text)], f"no module reads {name}"
    assert f"`{name}`" in (ROOT / "docs/settings.md").read_text()


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
)
def test_the_documentation_names_only_variables_that_exist(page: str) -> None:
    named = set(VARIABLE.findall((ROOT / page).read_text()))
    assert named - SETTINGS - CLIENT_ONLY == set()
