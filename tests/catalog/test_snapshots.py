"""What a run writes: snapshots, checkpoints, figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from phema.shared.catalog import Catalog, NotFound, Snapshot, Transaction

EXACT = [
    0.05,
    0.1,
    0.1 + 2**-56,
    1 / 3,
    math.nextafter(12**-0.5, 0),
    5e-324,
    1.7976931348623157e308,
    0.07499999999999998,
]


def add(tx: Transaction, run_id: str, num_images: int, sigma_rel: float, sha256: str = "abc") -> tuple[Snapshot, bool]:
    return tx.snapshots.add(
        run_id=run_id,
        num_images=num_images,
        profile={"kind": "power", "sigma_rel": sigma_rel, "gamma": 6.94},
        dtype="float16",
        key=f"runs/{run_id}/{num_images}-{sha256}",
        size=2**33,
        sha256=sha256,
    )


@pytest.mark.parametrize("value", EXACT)
def test_profiles_come_back_bit_for_bit(catalog: Catalog, run_id: str, value: float) -> None:
    with catalog.transaction() as tx:
        snapshot_id = add(tx, run_id, 64, value)[0].id
    with catalog.transaction() as tx:
        read = tx.snapshots.get(snapshot_id).sigma_rel
    assert read.hex() == value.hex()


@given(st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda value: value != 0))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_float_comes_back_bit_for_bit(catalog: Catalog, run_id: str, value: float) -> None:
    with catalog.transaction() as tx:
        snapshot, _ = add(tx, run_id, 64, value)
        tx.history.put(run_id, 64, {"value": value})
    with catalog.transaction() as tx:
        assert tx.snapshots.get(snapshot.id).sigma_rel.hex() == value.hex()
        assert tx.history.list(run_id).items[0].values["value"].hex() == value.hex()


def test_a_resumed_run_finds_the_snapshot_it_had_registered(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        first, created = add(tx, run_id, 64, 0.05)
        assert created
        assert (first.profile["kind"], first.size, first.profile["gamma"]) == ("power", 2**33, 6.94)
    with catalog.transaction() as tx:
        again, created = add(tx, run_id, 64, 0.05, sha256="other bytes")
        assert (again.id, again.sha256, created) == (first.id, "abc", False)
        assert add(tx, run_id, 64, 0.1)[1]
        assert add(tx, run_id, 128, 0.05)[1]


def test_snapshots_are_listed_in_order_of_time_and_profile(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        for num_images, sigma_rel in [(128, 0.1), (64, 0.1), (1000, 0.05), (64, 0.05), (128, 0.05), (1000, 0.1)]:
            add(tx, run_id, num_images, sigma_rel)
        listed = [(row.num_images, row.sigma_rel) for row in tx.snapshots.list(run_id)]
        assert listed == [(64, 0.05), (64, 0.1), (128, 0.05), (128, 0.1), (1000, 0.05), (1000, 0.1)]
        assert [row.num_images for row in tx.snapshots.list(run_id, up_to=128)] == [64, 64, 128, 128]
        assert tx.snapshots.times(run_id) == [64, 128, 1000]
        assert tx.snapshots.times("run-none") == tx.snapshots.list("run-none") == []


def test_a_traditional_average_stands_beside_the_others(catalog: Catalog, run_id: str) -> None:
    """One per time, last of its time, whole pages through it; its profile comes back exactly."""

    def add_traditional(tx: Transaction, num_images: int) -> tuple[Snapshot, bool]:
        return tx.snapshots.add(
            run_id=run_id,
            num_images=num_images,
            profile={"kind": "exponential", "half_life_images": 2**40, "rampup_ratio": 1 / 3},
            dtype="float16",
            key=f"{num_images}",
            size=1,
            sha256="abc",
        )

    with catalog.transaction() as tx:
        for num_images in (64, 128):
            assert add_traditional(tx, num_images)[1]
            add(tx, run_id, num_images, 0.1)
        again, created = add_traditional(tx, 64)
        assert (again.key, created) == ("64", False)
        assert (again.sigma_rel, again.profile["half_life_images"]) == (None, 2**40)
        assert again.profile["rampup_ratio"] == 1 / 3
        whole = [(row.num_images, row.sigma_rel) for row in tx.snapshots.list(run_id)]
        assert whole == [(64, 0.1), (64, None), (128, 0.1), (128, None)]
        paged, cursor = [], None
        while len(paged) < 4:
            page = tx.snapshots.page(run_id, after=cursor, limit=1)
            paged += [(row.num_images, row.sigma_rel) for row in page.items]
            cursor = page.next_cursor
        assert paged == whole
        assert cursor is None


def test_unknown_snapshot(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="There is no snapshot 'snap-none'"), catalog.transaction() as tx:
        tx.snapshots.get("snap-none")


def test_no_snapshot_without_its_run(catalog: Catalog) -> None:
    with pytest.raises(IntegrityError), catalog.transaction() as tx:
        add(tx, "run-none", 64, 0.05)


def test_checkpoints_keep_the_latest(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        assert tx.checkpoints.latest(run_id) is None
        for num_images in (128, 512, 256):
            _, created = tx.checkpoints.add(
                run_id=run_id, num_images=num_images, key=f"{num_images}", size=1, sha256="s"
            )
            assert created
        again, created = tx.checkpoints.add(run_id=run_id, num_images=512, key="other", size=1, sha256="s")
        assert (again.key, created) == ("512", False)
        latest = tx.checkpoints.latest(run_id)
        assert latest is not None
        assert latest.num_images == 512
        assert [row.num_images for row in tx.checkpoints.all_but_latest(run_id, keep=2)] == [128]
        assert [row.num_images for row in tx.checkpoints.all_but_latest(run_id, keep=0)] == [128, 256, 512]
        tx.checkpoints.delete(latest.id)
        tx.checkpoints.delete(latest.id)
    with catalog.transaction() as tx:
        assert [row.num_images for row in tx.checkpoints.all_but_latest(run_id, keep=0)] == [128, 256]


def test_history_replaces_the_figures_of_an_earlier_attempt(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        tx.history.put(run_id, 64, {"loss": 1.0, "old": 2.0})
        tx.history.put(run_id, 128, {"loss": 0.5})
    with catalog.transaction() as tx:
        tx.history.put(run_id, 64, {"loss": 1.5})
    with catalog.transaction() as tx:
        points = tx.history.list(run_id).items
    assert [(point.num_images, point.values) for point in points] == [(64, {"loss": 1.5}), (128, {"loss": 0.5})]


def test_thinned_history_spans_the_run_and_keeps_figures_that_are_rare(catalog: Catalog, run_id: str) -> None:
    times = range(64, 64 * 41, 64)
    with catalog.transaction() as tx:
        for time in times:
            rare = {"weight/enc/8/mean": 1.0} if time % (64 * 4) == 64 else {}
            tx.history.put(run_id, time, {"loss": 1.0} | rare)
    with catalog.transaction() as tx:
        assert tx.history.count(run_id) == 40
        assert [row.num_images for row in tx.history.thinned(run_id, 40)] == list(times)
        thinned = tx.history.thinned(run_id, 11)
    assert [row.num_images for row in thinned] == list(range(64, 64 * 41, 4 * 64))
    assert all("weight/enc/8/mean" in row.values for row in thinned)


def test_history_keeps_figures_that_json_cannot_say(catalog: Catalog, run_id: str) -> None:
    figures = {"loss": math.nan, "grad": math.inf, "low": -math.inf, "zero": -0.0, "tiny": 5e-324}
    with catalog.transaction() as tx:
        tx.history.put(run_id, 64, figures)
    with catalog.transaction() as tx:
        (point,) = tx.history.list(run_id).items
    assert {name: value.hex() for name, value in point.values.items()} == {
        name: value.hex() for name, value in figures.items()
    }


def test_history_can_be_followed(catalog: Catalog, run_id: str) -> None:
    seen: list[int] = []
    for num_images in range(64, 64 * 8, 64):
        with catalog.transaction() as tx:
            tx.history.put(run_id, num_images, {"loss": 1.0})
            new = tx.history.list(run_id, after=seen[-1] if seen else None).items
        seen += [point.num_images for point in new]
    assert seen == list(range(64, 64 * 8, 64))
