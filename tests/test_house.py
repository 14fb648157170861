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


def test_every_environment_variable_of_ours_is_a_setting() -> None:
    """A variable that code reads past the settings class would be undocumented and unchecked."""
    known = {f"PHEMA_{name.upper()}" for name in Settings.model_fields}
    tests_only = {"PHEMA_TEST_S3", "PHEMA_REQUIRE_POSTGRES"}
    client_only = {"PHEMA_URL", "PHEMA_TOKEN"}
    used: dict[str, str] = {}
    for folder in ("phema", "services", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\bPHEMA_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()):
                used.setdefault(name, str(path.relative_to(ROOT)))
    assert {name: path for name, path in used.items() if name not in known | tests_only | client_only} == {}
