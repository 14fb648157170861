"""Migrations create exactly the tables of the models."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from shared.catalog import Catalog
from shared.catalog.engine import parse_url
from shared.catalog.models import Base


def test_models_and_migrations_agree(catalog_url: str) -> None:
    engine = create_engine(parse_url(catalog_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_upgrade_twice_is_harmless(empty_url: str) -> None:
    catalog = Catalog(empty_url)
    catalog.upgrade()
    catalog.upgrade()
    catalog.check()
    catalog.close()
