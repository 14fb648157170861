"""Weight probes, and what a calibration measures from them: size, rounding and movement of the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phema.shared.edm2.averaging.random_walk import RandomWalk
from phema.shared.edm2.averaging.weightings import PowerWeighting, RawWeighting, SampledWeighting
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.header import StoredDtype, read_header
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS, ProbeCollector, probe_of, probed_weights
from phema.shared.snapshots.planning.calibration import calibrate, rounding
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.verification import digest
from tests.snapshots.weights import metadata, tensors

DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("size", [10, 3000])
def test_a_probe_holds_the_averaged_weights_alone(store: ObjectStore, dtype: StoredDtype, size: int) -> None:
    whole = tensors(7, size)
    data = encode(whole, metadata(dtype=dtype))
    found = probed_weights(probe_of(data))
    averaged = [
        whole[name].to(DTYPES[dtype]).float().reshape(-1) for name in sorted(whole) if name[:3] in ("enc", "dec")
    ]
    flat = torch.cat(averaged).numpy()
    if len(flat) <= PROBE_WEIGHTS:
        np.testing.assert_array_equal(found, flat)
    else:
        assert PROBE_WEIGHTS * 0.95 < len(found) <= PROBE_WEIGHTS
        assert np.isin(found, flat).all()
        assert found.std() == pytest.approx(flat.std(), rel=0.05)
    # The same from a stored file, read in blocks that split elements.
    store.put("a", data)
    collector = ProbeCollector(read_header(store, "a"))
    digest(store, "a", block_bytes=4099, on_block=collector.add_block)
    assert collector.probe() == probe_of(data)


def test_probes_of_one_network_hold_the_same_places() -> None:
    first, second = tensors(1, 3000), tensors(1, 3000)
    second = {name: value + 1 if name[:3] in ("enc", "dec") else value for name, value in second.items()}
    a, b = (probed_weights(probe_of(encode(t, metadata(dtype="float32")))) for t in (first, second))
    np.testing.assert_allclose(b - a, 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("scale", [1.0, 1e-6, 300.0])
def test_rounding_is_what_storing_does(dtype: StoredDtype, scale: float) -> None:
    weights = np.random.default_rng(0).standard_normal(200_000) * scale
    stored = torch.tensor(weights).to(DTYPES[dtype]).double().numpy()
    assert rounding(weights, dtype) == pytest.approx(np.sqrt(np.mean((stored - weights) ** 2)), rel=0.03)


def test_without_probes_usual_values_are_assumed() -> None:
    stored = [StoredSnapshot(f"s{t}", t, Profile.power(0.1), "k", 1, "", "float16") for t in (100, 200)]
    known = calibrate(stored, {})
    assert not known.calibrated
    assert known.rms == 1.0
    np.testing.assert_allclose(known.noise(stored), 2.1e-4)
    same = {s.id: np.ones(50, "<f4").tobytes() for s in stored}
    assert not calibrate(stored, same).calibrated, "two snapshots do not show how weights move"


def test_averages_in_float32_accumulate_rounding() -> None:
    stored = [StoredSnapshot("s", 6400, Profile.power(0.1), "k", 1, "")]
    known = calibrate(stored, {}, update_images=64)
    short, long, raw = known.tracking_rounding(
        [PowerWeighting(6400, 0.05), PowerWeighting(6400, 0.25), RawWeighting(6400)]
    )
    assert 0 == raw < short < long
    assert short == pytest.approx(2.5e-8 * np.sqrt(100 / (2 * (PowerWeighting(6400, 0.05).gamma + 1))))
    assert calibrate(stored, {}).tracking_rounding([PowerWeighting(6400, 0.05)]) == 0
    assert known.tracking_rounding([SampledWeighting(6400, (3200.0, 6400.0), (1.0, 0.0))]) > long


def test_late_snapshots_without_probes_move_as_well() -> None:
    """A rate of movement that was measured at early times is assumed until the end."""
    early = RandomWalk(0.04, 0.5, 100.0)
    late = early.until(400.0)
    at = np.array([10.0, 90.0])
    for movement in (early, late):
        rate = movement.variance / movement.end * (at / movement.end) ** -movement.exponent
        np.testing.assert_allclose(rate, 0.04 / 100 * (at / 100) ** -0.5)


def test_probes_of_a_diverged_run_are_ignored() -> None:
    stored = [StoredSnapshot(f"s{t}", t, Profile.power(0.1), "k", 1, "") for t in range(100, 900, 100)]
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((8, 50)), axis=0).astype("<f4")
    walk[-1, 3] = np.inf
    probes = {s.id: walk[i].tobytes() for i, s in enumerate(stored)}
    known = calibrate(stored, probes)
    assert known.calibrated
    assert np.isfinite([known.rms, known.movement.variance]).all()
    assert known.movement.end == 800
    everything = {s.id: np.full(50, np.nan, "<f4").tobytes() for s in stored}
    assert not calibrate(stored, everything).calibrated
