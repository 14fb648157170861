"""What a run's own snapshots say of its weights: how large they are, how much they move, how they were rounded.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.edm2.movement import USUAL_EXPONENT, USUAL_VARIANCE, Movement, fit_movement
from shared.edm2.profiles import FloatArray, Profile, RawProfile
from shared.snapshots import probe
from shared.snapshots.header import StoredDtype
from shared.snapshots.stored import StoredSnapshot
from shared.snapshots.weighting import weighting

_MANTISSA_BITS: dict[StoredDtype, int] = {"float32": 23, "float16": 10, "bfloat16": 7}
_SMALLEST_EXPONENT: dict[StoredDtype, int] = {"float32": -126, "float16": -14, "bfloat16": -126}
_USUAL_ROUNDING: dict[StoredDtype, float] = {"float32": 2.5e-8, "float16": 2.1e-4, "bfloat16": 1.7e-3}
"""Relative to the weights' root mean square, for normally distributed ones."""
_DENSE, _THINNED = 48, 16
"""Snapshots that calibrate: so many of the latest times, and of all times before."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Of some snapshots, in their order."""

    movement: Movement
    noise: FloatArray
    """[snapshots] standard deviation of each one's rounding, in units of a weight."""
    rms: float
    """Root mean square of the weights."""
    calibrated: bool
    """Whether the run told; otherwise these are usual figures, relative to weights of root mean square 1."""
    update_images: int | None = None
    """Images between two updates of the averages."""

    def only(self, kept: npt.NDArray[np.int64]) -> Calibration:
        """The same of a part of the snapshots."""
        return Calibration(self.movement, self.noise[kept], self.rms, self.calibrated, self.update_images)

    def tracking(self, targets: Sequence[Profile]) -> FloatArray:
        """[targets] rounding that any average collects when it is kept in float32, as the wanted one would have been.

        Every update rounds anew and is forgotten with the average itself, after about 1 / density(end) images.
        """
        if self.update_images is None:
            return np.zeros(len(targets))
        memory = np.array([0.0 if isinstance(t, RawProfile) else 1 / _last_density(t) for t in targets])
        collected: FloatArray = _USUAL_ROUNDING["float32"] * self.rms * np.sqrt(memory / (2 * self.update_images))
        return collected


def calibrate(
    snapshots: Sequence[StoredSnapshot], probes: Mapping[str, bytes], *, update_images: int | None = None
) -> Calibration:
    """Figures from the snapshots' probes (by snapshot id); usual ones where there are none. `snapshots` are in order
    of time."""
    probed = [s for s in snapshots if probes.get(s.id)]
    if not probed:
        noise = np.array([_USUAL_ROUNDING[s.dtype] for s in snapshots])
        end = float(snapshots[-1].num_images)
        return Calibration(Movement(USUAL_VARIANCE, USUAL_EXPONENT, end), noise, 1.0, False, update_images)
    latest = probe.values(probes[probed[-1].id]).astype(np.float64)
    rms = float(np.sqrt(np.mean(latest**2))) or 1.0
    by_dtype = {dtype: rounding(latest, dtype) for dtype in {s.dtype for s in snapshots}}
    noise = np.array([by_dtype[s.dtype] for s in snapshots])
    chosen = _telling(probed)
    movement = None
    if all(len(probes[s.id]) == len(probes[probed[-1].id]) for s in chosen):
        movement = fit_movement(
            [weighting(s.profile, s.num_images) for s in chosen],
            np.stack([probe.values(probes[s.id]) for s in chosen]).astype(np.float64),
            np.array([by_dtype[s.dtype] for s in chosen]),
        )
    usual = Movement(USUAL_VARIANCE * rms**2, USUAL_EXPONENT, float(snapshots[-1].num_images))
    return Calibration(movement or usual, noise, rms, movement is not None, update_images)


def rounding(values: FloatArray, dtype: StoredDtype) -> float:
    """Standard deviation of the rounding of such weights: their units in the last place over the square root of 12."""
    magnitude = np.abs(values)
    exponent = np.floor(np.log2(np.where(magnitude > 0, magnitude, 1.0)))
    exponent = np.where(magnitude > 0, np.maximum(exponent, _SMALLEST_EXPONENT[dtype]), _SMALLEST_EXPONENT[dtype])
    return float(np.sqrt(np.mean(4.0 ** (exponent - _MANTISSA_BITS[dtype])) / 12))


def _telling(snapshots: Sequence[StoredSnapshot]) -> list[StoredSnapshot]:
    """All of the latest times, which show the finest movement, and some of those before."""
    times = sorted({s.num_images for s in snapshots})
    early = times[:-_DENSE]
    kept = {*times[-_DENSE:], *early[:: -(-len(early) // _THINNED) or 1]}
    return [s for s in snapshots if s.num_images in kept]


def _last_density(profile: Profile) -> float:
    return float(profile.density(profile.num_images))
