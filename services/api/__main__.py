"""`python -m phema.services.api`: check that catalog and store can be used, then serve the API."""

from __future__ import annotations

import sys

from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from phema.services.api.app import create_app
from phema.services.api.http.server import AddressTaken, serve
from phema.shared.catalog.errors import CatalogError
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import SnapshotError
from phema.shared.telemetry import configure_logs
from phema.shared.validation_sentences import requirement
from phema.shared.wiring import catalog_from, store_from


def main() -> int:
    """Exit code 0 after SIGTERM or SIGINT; 1 with one sentence on standard error when the API cannot start."""
    # Plans solve small systems. With a thread per core, the threads wait for each other and burn the CPUs.
    threadpool_limits(1, user_api="blas")
    try:
        settings = Settings()
        configure_logs("api", level=settings.log_level)
        _check(settings)
        serve(create_app(settings), settings)
    except ValidationError as error:
        return _cannot_start("; ".join(_setting(record) for record in error.errors()))
    except (CatalogError, SnapshotError, AddressTaken, ValueError) as error:
        return _cannot_start(str(error))
    return 0


def _check(settings: Settings) -> None:
    catalog = catalog_from(settings)
    try:
        catalog.check()
    finally:
        catalog.close()
    store_from(settings).check()


def _setting(record: object) -> str:
    assert isinstance(record, dict)
    name = "_".join(("PHEMA", *map(str, record["loc"]))).upper()
    return f"{name} {record['input']!r}: {requirement(record)}" if record["loc"] else requirement(record)


def _cannot_start(sentence: str) -> int:
    print(f"phema api cannot start: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
