"""The README's sequence works as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import Service

README = Path(__file__).parents[2] / "README.md"
MARKED = re.compile(r"<!-- run by tests/e2e/test_readme.py -->\n```(\w+)\n(.*?)```", re.S)


@pytest.mark.timeout(600)
def test_the_sequence_of_the_readme_works_as_printed(service: Service, tmp_path: Path) -> None:
    blocks = MARKED.findall(README.read_text())
    assert [language for language, _ in blocks] == ["bash", "python"]
    env = {**os.environ, "PHEMA_URL": service.url}
    for language, code in blocks:
        program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        result = subprocess.run([*program, code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert '"title"' not in result.stdout, f"a problem was answered:\n{result.stdout}"
    for picture in ("digits.png", "samples.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.convert("L").getextrema()[1] > 128
