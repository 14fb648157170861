"""Metrics that Prometheus finds: a server on a free port, and a row in the catalog that says where."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.telemetry import Meters, serve_metrics

TOUCH_SECONDS = 5.0
_log = logging.getLogger(__name__)


@contextmanager
def announced(meters: Meters, catalog: Catalog, host: str) -> Iterator[str]:
    """Serve `meters` for the length of the block and keep their address registered as a live target.

    Raises OSError when `host` is not an address of this machine.
    """
    address, stop_server = serve_metrics(meters.registry, host)
    done = threading.Event()

    def register() -> None:
        with catalog.transaction() as tx:
            if not tx.scrape_targets.touch(address):
                tx.scrape_targets.register(meters.source, address)

    def keep_registered() -> None:
        while True:
            try:
                register()
            except CatalogUnreachable as error:
                _log.warning("metrics at %s are not announced: %s", address, error)
            if done.wait(TOUCH_SECONDS):
                return

    thread = threading.Thread(target=keep_registered, name="announce", daemon=True)
    thread.start()
    _log.info("serving metrics", extra={"address": address})
    try:
        yield address
    finally:
        done.set()
        thread.join()
        stop_server()
        try:
            with catalog.transaction() as tx:
                tx.scrape_targets.remove(address)
        except CatalogUnreachable as error:
            _log.warning("metrics at %s stay announced until they age out: %s", address, error)
