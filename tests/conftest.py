"""Fixtures every room shares; each module is owned by the room it serves."""

import os
from pathlib import Path

import pytest

# Before torch is imported: two threads that wait for each other on busy cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

FIXTURES = Path(__file__).parent / "fixtures"
pytest_plugins = [f"tests.fixtures.{path.stem}" for path in sorted(FIXTURES.glob("[!_]*.py"))]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run whole services go first, so that with -n the short ones fill the time beside them."""
    items.sort(key=lambda item: not ({"e2e", "chaos"} & {*item.path.parts} or "ray" in item.path.stem))


collect_ignore = ["integrations"]
"""These have an environment of their own: `make test-integrations`."""
