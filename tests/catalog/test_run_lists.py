"""Filters, orders and pages of lists of runs, and what is shown beside their rows."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import BadCursor, Catalog, JobKind, JobState, RunSort
from phema.shared.snapshots.profile import Profile

IMAGES = {"alpha": 300, "Beta": 100, "gamma": 200, "gamma-2": 200}


@pytest.fixture
def runs(catalog: Catalog) -> dict[str, str]:
    """Ids by name, in order of creation; `gamma-2` has a length of 400 images, the others of 1,000."""
    ids = {}
    with catalog.transaction() as tx:
        for name, images in IMAGES.items():
            preset = {"preset": "small" if name == "alpha" else "large"}
            run = tx.runs.create(name, preset, "hash", 400 if name == "gamma-2" else 1000)
            tx.runs.set_progress(run.id, images)
            ids[name] = run.id
        external, _ = tx.external_runs.open("outside", origin="external", config={}, total_images=None)
        ids["outside"] = external.id
    return ids


def names(catalog: Catalog, **given: Any) -> list[str]:
    with catalog.transaction(read_only=True) as tx:
        return [run.name for run in tx.runs.list(**given).items]


def paged(catalog: Catalog, **given: Any) -> list[str]:
    found: list[str] = []
    after = None
    with catalog.transaction(read_only=True) as tx:
        while True:
            page = tx.runs.list(after=after, limit=2, **given)
            found += [run.name for run in page.items]
            if (after := page.next_cursor) is None:
                return found


def test_runs_are_filtered(catalog: Catalog, runs: dict[str, str]) -> None:
    assert names(catalog, name="GAMMA") == ["gamma-2", "gamma"]
    assert names(catalog, name="%") == names(catalog, name="a_p") == []
    assert names(catalog, preset="small") == ["alpha"]
    assert names(catalog, origin="external") == ["outside"]
    assert names(catalog, state=JobState.RUNNING) == ["outside"]
    assert names(catalog, state=JobState.QUEUED, name="beta", preset="large", origin="trained") == ["Beta"]
    assert names(catalog, state=JobState.RUNNING, name="alpha") == []


@pytest.mark.parametrize(
    ("sort", "rising"),
    [
        (RunSort.CREATED, ["alpha", "Beta", "gamma", "gamma-2", "outside"]),
        (RunSort.IMAGES, ["outside", "Beta", "gamma", "gamma-2", "alpha"]),
        (RunSort.PROGRESS, ["outside", "Beta", "gamma", "alpha", "gamma-2"]),
    ],
)
def test_runs_are_sorted_and_pages_continue(
    catalog: Catalog, runs: dict[str, str], sort: RunSort, rising: list[str]
) -> None:
    assert names(catalog, sort=sort, order="asc") == paged(catalog, sort=sort, order="asc") == rising
    assert names(catalog, sort=sort) == paged(catalog, sort=sort) == rising[::-1]
    assert paged(catalog, sort=sort, name="gamma") == [name for name in rising[::-1] if "gamma" in name]


def test_names_ascend_by_default(catalog: Catalog, runs: dict[str, str]) -> None:
    found = paged(catalog, sort=RunSort.NAME)
    assert sorted(found) == sorted(runs)
    assert found == paged(catalog, sort=RunSort.NAME, order="desc")[::-1]
    assert [name for name in found if name.islower()] == ["alpha", "gamma", "gamma-2", "outside"]


def test_a_cursor_of_another_order_is_refused(catalog: Catalog, runs: dict[str, str]) -> None:
    with catalog.transaction(read_only=True) as tx:
        cursor = tx.runs.list(sort=RunSort.NAME, limit=2).next_cursor
        for sort in (RunSort.CREATED, RunSort.IMAGES, RunSort.PROGRESS):
            with pytest.raises(BadCursor):
                tx.runs.list(sort=sort, after=cursor)


def test_curves_are_spread_over_the_run_and_leave_out_what_is_not_finite(
    catalog: Catalog, runs: dict[str, str]
) -> None:
    long, short = runs["alpha"], runs["gamma"]
    with catalog.transaction() as tx:
        for time in range(1, 301):
            tx.history.put(long, time, {"loss": float("nan") if time == 300 else 1 / time, "images_per_second": 5.0})
        for time in (100, 200):
            tx.history.put(short, time, {"loss": 0.5, "learning_rate": 1.0})
    with catalog.transaction(read_only=True) as tx:
        found = tx.run_overviews.curves(list(runs.values()), "loss", 10)
        latest = tx.run_overviews.latest(list(runs.values()), "images_per_second")
        assert tx.run_overviews.curves([], "loss", 10) == {}
    assert found == {
        long: [(time, pytest.approx(1 / time)) for time in range(30, 300, 30)],
        short: [(100, 0.5), (200, 0.5)],
    }
    assert latest == {long: 5.0}


def test_the_best_evaluation_of_each_run_is_found(catalog: Catalog, runs: dict[str, str]) -> None:
    values = {"alpha": [3.0, 1.0, 2.0], "Beta": [float("nan"), 5.0], "gamma": [float("inf")]}
    with catalog.transaction() as tx:
        for name, figures in values.items():
            for place, value in enumerate(figures):
                profile = Profile.power(0.05 + place / 100).model_dump(mode="json")
                plan = {"snapshots": [], "coefficients": [place]}
                weights, _ = tx.reconstructions.find_or_create(
                    run_id=runs[name], num_images=100 + place, profile=profile, dtype="float32", plan=plan
                )
                row, _ = tx.evaluations.find_or_create(
                    run_id=runs[name], reconstruction_id=weights.id, recipe={"seed": place}
                )
                tx.evaluations.complete(row.id, {"frechet": value, "recall": value}, errors={"frechet": 0.1})
    ids = list(runs.values())
    with catalog.transaction(read_only=True) as tx:
        names_of_figures = tx.run_overviews.figures(ids)
        lowest = tx.run_overviews.best(ids, "frechet", "lower")
        highest = tx.run_overviews.best(ids, "recall", "higher")
        assert tx.run_overviews.best(ids, "other", "lower") == {}
    assert names_of_figures == {runs[name]: ["frechet", "recall"] for name in values}
    assert set(lowest) == set(highest) == {runs["alpha"], runs["Beta"]}
    best = lowest[runs["alpha"]]
    assert (best.value, best.standard_error, best.num_images, best.sigma_rel) == (1.0, 0.1, 101, 0.060000000000000005)
    assert best.recipe == {"seed": 1}
    assert lowest[runs["Beta"]].value == highest[runs["Beta"]].value == 5.0
    assert (highest[runs["alpha"]].value, highest[runs["alpha"]].standard_error) == (3.0, None)


def test_the_state_is_that_of_the_latest_job(catalog: Catalog, runs: dict[str, str]) -> None:
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(tx.runs.get("alpha").job_id)
        assert [run.name for run in tx.runs.list(state=JobState.CANCELLED).items] == ["alpha"]
        tx.run_control.resume(runs["alpha"])
        assert tx.runs.list(state=JobState.CANCELLED).items == []
        assert len(tx.jobs.list(kind=JobKind.TRAIN, run_id=runs["alpha"]).items) == 2
