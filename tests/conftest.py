"""Fixtures every room shares; each module is owned by the room it serves."""

from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
pytest_plugins = [f"tests.fixtures.{path.stem}" for path in sorted(FIXTURES.glob("[!_]*.py"))]
