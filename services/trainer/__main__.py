"""The trainer service, `python -m phema.services.trainer`.

Trainings continue after the trainer ends; the next trainer takes them over.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from phema.services.trainer.control.attempt_follower import AttemptFollower
from phema.services.trainer.control.ray_jobs import RayJobs
from phema.services.trainer.control.reconciler import Reconciler
from phema.shared.catalog import CatalogError
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import Meters, configure_logs
from phema.shared.wiring import catalog_from, store_from


def main() -> int:
    settings = Settings()
    configure_logs("trainer", level=settings.log_level)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    catalog, meters = catalog_from(settings), Meters("trainer")
    owner = f"trainer@{socket.gethostname()}:{os.getpid()}"
    try:
        catalog.check()
        store = store_from(settings)
        store.check()
        with (
            RayJobs(settings.ray_dashboard_url) as ray_jobs,
            announced(meters, catalog, settings.metrics_host, interval_s=settings.lease_seconds / 4),
            AttemptFollower(ray_jobs, catalog, store) as follower,
        ):
            Reconciler(settings, catalog, ray_jobs, meters, owner=owner, follower=follower).run(stopping)
    except (CatalogError, SnapshotError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 1
    finally:
        catalog.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
