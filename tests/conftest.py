"""Fixtures every room shares; each module is owned by the room it serves."""

import os
from pathlib import Path

# Before torch is imported: two threads that wait for each other on busy cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

FIXTURES = Path(__file__).parent / "fixtures"
pytest_plugins = [f"tests.fixtures.{path.stem}" for path in sorted(FIXTURES.glob("[!_]*.py"))]
