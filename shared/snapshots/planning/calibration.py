"""Measures a run's weights from its own snapshots: their size, their movement and their rounding. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.random_walk import DEFAULT_EXPONENT, DEFAULT_VARIANCE, RandomWalk, fit_random_walk
from phema.shared.edm2.averaging.weightings import ImpulseWeighting, Weighting
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.files.weight_probe import probed_weights
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot

_MANTISSA_BITS: dict[StoredDtype, int] = {"float32": 23, "float16": 10, "bfloat16": 7}
_SMALLEST_EXPONENT: dict[StoredDtype, int] = {"float32": -126, "float16": -14, "bfloat16": -126}
_USUAL_ROUNDING: dict[StoredDtype, float] = {"float32": 2.5e-8, "float16": 2.1e-4, "bfloat16": 1.7e-3}
"""Standard deviation of the rounding, relative to the root mean square of normally distributed weights."""
_LATEST_TIMES, _EARLIER_TIMES = 48, 16
"""Times whose snapshots are used: all of the latest 48, and about 16 of those before."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is known about a run's weights up to some time."""

    movement: RandomWalk
    rms: float
    """Root mean square of the weights."""
    rounding: Mapping[StoredDtype, float]
    """Standard deviation of the rounding by each dtype, in units of a weight."""
    calibrated: bool
    """Whether the movement was measured on the run. Otherwise a usual amount is assumed; without any probe, all values
    are usual ones for weights of root mean square 1."""
    update_images: int | None = None
    """Images between two updates of the averages."""

    def at(self, num_images: int) -> Calibration:
        """The same calibration for another time."""
        return replace(self, movement=self.movement.until(float(num_images)))

    def noise(self, snapshots: Sequence[StoredSnapshot]) -> FloatArray:
        """[snapshots] standard deviation of the rounding of each snapshot, in units of a weight."""
        return np.array([self.rounding[s.dtype] for s in snapshots])

    def tracking_rounding(self, targets: Sequence[Weighting]) -> FloatArray:
        """[targets] rounding that accumulates in an average tracked in float32, as the wanted average would have been.

        Every update adds rounding. The average forgets it after about 1 / density(end) images, as it forgets weights.
        Zero when `update_images` is not known.
        """
        if self.update_images is None:
            return np.zeros(len(targets))
        memory = np.array([0.0 if isinstance(t, ImpulseWeighting) else _memory(t) for t in targets])
        collected: FloatArray = _USUAL_ROUNDING["float32"] * self.rms * np.sqrt(memory / (2 * self.update_images))
        return collected


def calibrate(
    snapshots: Sequence[StoredSnapshot], probes: Mapping[str, bytes], *, update_images: int | None = None
) -> Calibration:
    """Calibrate from probes: a sample of the weights by snapshot id. Usual values stand in for what is not known.

    `snapshots` are in order of time. Probes with values that are not finite (the run diverged) are ignored.
    """
    end = float(snapshots[-1].num_images)
    probed = [s for s in snapshots if probes.get(s.id) and np.isfinite(probed_weights(probes[s.id])).all()]
    if not probed:
        return Calibration(
            RandomWalk(DEFAULT_VARIANCE, DEFAULT_EXPONENT, end), 1.0, _USUAL_ROUNDING, False, update_images
        )
    chosen = snapshots_to_fit(probed)
    sampled = {s.id: probed_weights(probes[s.id]).astype(np.float64) for s in chosen}
    latest = sampled[probed[-1].id]
    rms = float(np.sqrt(np.mean(latest**2))) or 1.0
    by_dtype = {dtype: rounding(latest, dtype) for dtype in _USUAL_ROUNDING}
    chosen = [s for s in chosen if len(sampled[s.id]) == len(latest)]
    movement = fit_random_walk(
        [weighting(s.profile, s.num_images) for s in chosen],
        np.stack([sampled[s.id] for s in chosen]),
        np.array([by_dtype[s.dtype] for s in chosen]),
    )
    found = movement or RandomWalk(DEFAULT_VARIANCE * rms**2, DEFAULT_EXPONENT, end)
    return Calibration(found.until(end), rms, by_dtype, movement is not None, update_images)


def rounding(values: FloatArray, dtype: StoredDtype) -> float:
    """Standard deviation of the rounding of these weights: their units in the last place over the square root of 12."""
    # frexp is exact, and much cheaper than a logarithm; its fractions begin at one half.
    exponent = np.where(values != 0, np.frexp(values)[1] - 1, _SMALLEST_EXPONENT[dtype])
    exponent = np.maximum(exponent, _SMALLEST_EXPONENT[dtype])
    return float(np.sqrt(np.mean(np.ldexp(1.0, 2 * (exponent - _MANTISSA_BITS[dtype]))) / 12))


def snapshots_to_fit(snapshots: Sequence[StoredSnapshot]) -> list[StoredSnapshot]:
    """All snapshots of the latest times, which show the finest movement, and those of some earlier times."""
    times = sorted({s.num_images for s in snapshots})
    early = times[:-_LATEST_TIMES]
    kept = {*times[-_LATEST_TIMES:], *early[:: -(-len(early) // _EARLIER_TIMES) or 1]}
    return [s for s in snapshots if s.num_images in kept]


def _memory(profile: Weighting) -> float:
    """Images after which an average has forgotten a weight: all of them when the profile gives the end no weight."""
    latest = float(profile.density(profile.num_images))
    return min(1 / latest, profile.num_images) if latest > 0 else profile.num_images
