"""`python -m phema.services.phema_worker`: works on all jobs but trainings until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import ray
from pydantic import ValidationError

from phema.services.phema_worker.ray_connection import connect_to_ray
from phema.services.phema_worker.worker import Worker
from phema.shared.catalog import CatalogError
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import SnapshotError
from phema.shared.telemetry import configure_logs
from phema.shared.validation_sentences import sentence
from phema.shared.wiring import catalog_from, store_from


def main() -> int:
    """Returns 0 after a signal; 1, with one sentence on stderr, if a setting is wrong or a service is unreachable."""
    try:
        settings = Settings()
    except ValidationError as error:
        print(sentence(error.errors(include_url=False)[0]), file=sys.stderr)
        return 1
    # Actors run in other working directories, where a relative path would name another folder.
    settings = settings.model_copy(update={"state_dir": settings.state_dir.resolve()})
    configure_logs("worker", level=settings.log_level)
    catalog = catalog_from(settings)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    try:
        catalog.check()
        store_from(settings).check()
    except (CatalogError, SnapshotError) as error:
        print(error, file=sys.stderr)
        return 1
    connect_to_ray(settings.ray_address)
    stopping = threading.Event()
    # ray.init installs its own handlers, so ours come after it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        Worker(settings, catalog).run(stopping)
    finally:
        ray.shutdown()
        catalog.close()
    return 0


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    """Before the worker holds a job, a signal ends it at once."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
