"""A metrics server on a free port, and the row in the catalog through which Prometheus finds it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.service_runtime.outage_log import OutageLog
from phema.shared.telemetry import Meters, serve_metrics

log = logging.getLogger(__name__)


@contextmanager
def announced(
    meters: Meters, catalog: Catalog, host: str, *, interval_s: float, outages: OutageLog | None = None
) -> Iterator[str]:
    """Serve `meters` on a free port of `host` during the block. Yields the address, "host:port".

    A thread registers the address as a scrape target and renews it every `interval_s`. While the catalog cannot be
    reached, it tries again; `outages` logs that, and may be shared with others. Leaving the block removes the target.
    Raises OSError when `host` is not an address of this machine.
    """
    address, stop_server = serve_metrics(meters.registry, host)
    done, outages = threading.Event(), outages or OutageLog()

    def register() -> None:
        with catalog.transaction() as tx:
            if not tx.scrape_targets.touch(address):
                tx.scrape_targets.register(meters.source, address)

    def keep_registered() -> None:
        while True:
            try:
                register()
                outages.reached()
            except CatalogUnreachable as error:
                outages.missed(error)
            if done.wait(interval_s):
                return

    thread = threading.Thread(target=keep_registered, name="announce", daemon=True)
    thread.start()
    log.info("serving metrics", extra={"address": address})
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
            log.warning("metrics at %s stay announced until the target expires: %s", address, error)
