"""`examples/choose_the_average.ipynb` runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT

NOTEBOOK = ROOT / "examples" / "choose_the_average.ipynb"
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
print(nbformat.writes(notebook))
"""


def test_the_notebook_runs(tmp_path: Path) -> None:
    """The notebook itself asserts that the best average is several times better than the last weights."""
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in json.loads(done.stdout)["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"]] == []
