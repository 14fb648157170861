"""Draft a migration to the current models: `python -m phema.shared.catalog.new_migration "What changes"`.

Review the draft: Alembic detects neither renamed columns nor changed CHECK constraints.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from phema.shared.catalog.catalog import Catalog
from phema.shared.catalog.engine import ANSWER_SECONDS, open_engine, parse_url
from phema.shared.catalog.schema_version import migration_config, wanted_revision


def draft(message: str) -> Path:
    """Write a file to `migrations/versions` with the difference between the latest migration and the models."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/catalog.db"
        catalog = Catalog(url)
        catalog.upgrade()
        catalog.close()
        engine = open_engine(parse_url(url), ANSWER_SECONDS)
        with engine.connect() as connection:
            revision = f"{int(wanted_revision()) + 1:04d}"
            script = command.revision(migration_config(connection), message, autogenerate=True, rev_id=revision)
        engine.dispose()
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


if __name__ == "__main__":
    print(draft(" ".join(sys.argv[1:])))
