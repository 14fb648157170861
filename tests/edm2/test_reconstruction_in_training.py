"""End to end: averages reconstructed from stored ones equal the averages tracked in the same training."""

from __future__ import annotations

import numpy as np

from phema.shared.edm2.averaging.posthoc import solve
from phema.shared.edm2.averaging.weightings import PowerWeighting
from tests.fixtures.training import END, STORED, TrainedDigits

SNAPSHOTS = 16
NEVER_STORED = (0.055, 0.07, 0.085, 0.12, 0.15)


def test_rebuilt_averages_are_the_tracked_ones(trained_digits: TrainedDigits) -> None:
    assert trained_digits.loss_left < 0.5, "the network did not learn, so its averages would prove nothing"
    stored = {
        PowerWeighting(time, width): weights.double().numpy()
        for (time, width), weights in trained_digits.stored.items()
        if time % (END // SNAPSHOTS) == 0
    }
    assert len(stored) == 2 * SNAPSHOTS
    solution = solve(list(stored), [PowerWeighting(END, width) for width in NEVER_STORED])
    rebuilt = solution.coefficients @ np.stack(list(stored.values()))
    for width, weights in zip(NEVER_STORED, rebuilt, strict=True):
        wanted = trained_digits.tracked[width]
        nearest = stored[PowerWeighting(END, min(STORED, key=lambda s: abs(s - width)))]
        missed = np.linalg.norm(weights - wanted)
        assert missed < 1e-2 * np.linalg.norm(wanted), width
        assert missed < 0.2 * np.linalg.norm(nearest - wanted), "no better than the nearest stored average"
