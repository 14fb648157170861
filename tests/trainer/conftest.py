"""A catalog and a store in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phema.shared.catalog import Catalog
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import new_catalog, new_store


@pytest.fixture
def local_catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = new_catalog(tmp_path)
    yield catalog
    catalog.close()


@pytest.fixture
def local_store(tmp_path: Path) -> ObjectStore:
    return new_store(tmp_path)
