"""Calibrations of runs, remembered: measuring one takes half of the processor time of a plan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from phema.shared.catalog import Catalog
from phema.shared.snapshots.planning.calibration import Calibration, calibrate
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot

_MOST = 128
"""Number of remembered calibrations. That of 2,000 pairs of snapshots takes 0.5 MiB, for the ids of the snapshots."""
_Key = tuple[str, tuple[str, ...], int | None]


class RunCalibrations:
    """Measures calibrations, and remembers those of snapshots that all have probes, which never change."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: OrderedDict[_Key, Calibration] = OrderedDict()
        self._lock = Lock()

    def measure(self, run_id: str, snapshots: Sequence[StoredSnapshot], *, update_images: int | None) -> Calibration:
        """See `calibrate`. Reads the probes in a transaction of its own, unless the answer is known."""
        key = run_id, tuple(s.id for s in snapshots), update_images
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        with self._catalog.transaction(read_only=True) as tx:
            probes = tx.snapshots.probes(run_id)
        found = calibrate(snapshots, probes, update_images=update_images)
        if all(s.id in probes for s in snapshots):
            self._remember(key, found)
        return found

    def _remember(self, key: _Key, found: Calibration) -> None:
        with self._lock:
            self._known[key] = found
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
