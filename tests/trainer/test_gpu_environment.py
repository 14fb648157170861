"""`make gpu` runs in an environment that has torch, but neither Ray nor any other package of the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import PARTS, TESTS

ROOT = Path(__file__).parents[2]
ABSENT = (
    *("ray", "sqlalchemy", "alembic", "psycopg", "boto3", "botocore", "fastapi", "uvicorn", "prometheus_client"),
    *("sklearn", "scipy", "skimage", "matplotlib", "diffusers", "yaml"),
)
IMPORT_AND_COLLECT = f"""
import importlib, sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # importing it raises ImportError
for module in {[part.command.split()[0] for part in PARTS if part.command != TESTS]!r}:
    importlib.import_module(module)
import pytest
sys.exit(pytest.main({[*TESTS.split()[1:], "--collect-only"]!r}))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_tests_and_benchmarks_of_a_gpu_need_no_package_of_the_server() -> None:
    done = python("-c", IMPORT_AND_COLLECT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_a_gpu_learns_what_a_cpu_does" in done.stdout


def test_without_a_gpu_one_sentence_says_so() -> None:
    done = python("-m", "benchmarks.gpu")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("No GPU was found: torch ")
    assert done.stdout.count("\n") == 1


def test_every_test_of_a_gpu_is_where_make_gpu_looks() -> None:
    mark = "mark." + "gpu"
    marked = {path.parent for path in ROOT.glob("tests/**/*.py") if mark in path.read_text()}
    assert marked == {ROOT / "tests" / "gpu"}


def test_the_parts_take_less_than_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS) <= 8 * 60
