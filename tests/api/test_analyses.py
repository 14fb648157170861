"""`/v1/analyses` and `/v1/reports`: what they say of evaluations in a real catalog."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import inspect

from phema.services.api.analyses.finished_evaluations import finished_evaluations
from phema.services.api.analyses.service import analysed
from phema.services.api.reports import service as report_service
from phema.services.api.reports.service import inputs
from phema.shared.catalog import Catalog, JobKind, Reconstruction, Run, StudyKind
from phema.shared.metrics.figures import jackknifed
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.reports.sections import gallery as gallery_section
from tests.api import seed
from tests.api.http import Api
from tests.fixtures.catalog import only

COMMON = (0.3, -0.2, 0.1, -0.4, 0.2)
NOISE = (0.001, -0.001, 0.0005, 0.0, -0.0005)
VALUES = {0.05: 0.42, 0.1: 0.4, 0.13: 0.4005}
"""0.13 cannot be told from 0.1, and 0.05 can."""


def reconstructions(api: Api, run: Run) -> dict[float, Reconstruction]:
    """Finished reconstructions, with real plans."""
    seed.snapshots(api.catalog, api.store, run.id)
    api.post(f"/v1/runs/{run.id}/reconstructions", {"sigma_rel": list(VALUES)})
    done = seed.finish_reconstructions(api.catalog, api.store)
    return {row.sigma_rel: row for row in done if row.sigma_rel is not None}


def evaluate(catalog: Catalog, store: Any, weights: Reconstruction, value: float, **recipe: Any) -> str:
    """A finished evaluation, with errors and replicates as a worker writes them."""
    noise = NOISE if value != min(VALUES.values()) else (0.0,) * 5
    figure = jackknifed(value, [value + a + b for a, b in zip(COMMON, noise, strict=True)])
    complete = EvaluationRecipe.model_validate({"num_samples": 200, "metrics": ["frechet"], **recipe})
    key = f"pictures/{weights.id}.png"
    if store.head(key) is None:
        store.put(key, grid_png(np.zeros((4, 1, 8, 8), np.float32), 2))
    with catalog.transaction() as tx:
        row, _ = tx.evaluations.find_or_create(
            run_id=weights.run_id, reconstruction_id=weights.id, recipe=complete.model_dump(mode="json")
        )
        job, _ = tx.jobs.enqueue(
            JobKind.EVALUATE, payload={"evaluation_id": row.id}, content_key=f"seed:{row.id}", run_id=weights.run_id
        )
        tx.evaluations.assign([row.id], job.id)
        tx.evaluations.complete(
            row.id,
            {"frechet": figure.value, "held_out_loss": 0.4},
            key,
            errors={"frechet": figure.standard_error or 0.0},
            replicates={"frechet": list(figure.replicates)},
        )
        tx.jobs.request_cancel(job.id)
    return row.id


@pytest.fixture
def run(api: Api) -> Run:
    run = seed.run(api.catalog)
    for width, weights in reconstructions(api, run).items():
        evaluate(api.catalog, api.store, weights, VALUES[width])
    return run


def test_differences_use_the_common_seeds(api: Api, run: Run) -> None:
    answer = api.get("/v1/analyses/ema-length", params={"run": run.name}).json()
    rows = {row["sigma_rel"]: row for row in answer["rows"]}
    assert answer["figure"] == "frechet"
    assert answer["runs"] == [run.name]
    assert (rows[0.1]["best"], rows[0.13]["tied"], rows[0.05]["tied"]) == (True, True, False)
    assert rows[0.05]["standard_error"] > 0.3
    assert rows[0.05]["difference_error"] == pytest.approx((0.8 * 2.5e-6) ** 0.5)
    lines = list(csv.DictReader(io.StringIO(api.get(f"/v1/analyses/ema-length?run={run.id}&format=csv").text)))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in answer["rows"]]


@only("sqlite")
def test_replicates_are_read_of_compared_points_and_plans_are_not_read(api: Api, run: Run) -> None:
    with api.catalog.transaction(read_only=True) as tx:
        weights = [row for row in tx.reconstructions.finished(run.id, None, 3) if row.sigma_rel == 0.1]
    for steps in (4, 8):
        guided = {"guidance": 2.0, "guide_id": weights[0].id, "num_steps": steps}
        evaluate(api.catalog, api.store, weights[0], 0.5, **guided)
    with api.catalog.transaction() as tx:
        waiting, _ = tx.evaluations.find_or_create(
            run_id=run.id, reconstruction_id=weights[0].id, recipe=EvaluationRecipe().model_dump(mode="json")
        )
    with api.catalog.transaction(read_only=True) as tx:
        points = finished_evaluations(tx, [run])
        assert len(points) == 5
        assert waiting.id not in {point.evaluation_id for point in points}
        assert all(not value.replicates for point in points for value in point.figures.values())
        assert [point.guide is not None for point in points] == [True, True, False, False, False]
        found = analysed(tx, "ema-length", [run.id], figure=None, num_images=None)
        assert len(found.rows) == 3
        for row in found.rows:
            assert len(row.point.figures["frechet"].replicates) == 5
            assert row.point.figures["held_out_loss"].replicates == ()
        assert "plan" in inspect(tx.reconstructions.without_plans([weights[0].id])[0]).unloaded
        report = inputs(tx, [run.id], api.store)
    assert [len(point.figures["frechet"].replicates) for point in report.points] == [0, 0, 5, 5, 5]


@only("sqlite")
def test_several_runs_share_what_is_read(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phema.services.api.analyses.finished_evaluations.MOST_OF_ALL_RUNS", 2)
    with api.catalog.transaction(read_only=True) as tx:
        newest = finished_evaluations(tx, [run])
        assert len(newest) == 2
        other = seed.run(api.catalog, "other")
        assert finished_evaluations(tx, [run, other]) == newest[:1]


def test_pictures_are_drawn_in_both_formats_and_for_dark_pages(api: Api, run: Run) -> None:
    png = api.get("/v1/analyses/ema-length", params={"run": run.name, "format": "png"})
    dark = api.get("/v1/analyses/ema-length", params={"run": run.name, "format": "png", "dark": True})
    assert png.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(png.content)).size == Image.open(io.BytesIO(dark.content)).size
    assert png.content != dark.content
    svg = api.get("/v1/analyses/profiles", params={"run": run.name, "format": "svg"})
    assert svg.headers["Content-Type"] == "image/svg+xml"
    assert "default-src 'none'" in svg.headers["Content-Security-Policy"]
    assert b"<svg" in svg.content
    assert b"<script" not in svg.content


def test_profiles_are_those_of_finished_reconstructions(api: Api, run: Run) -> None:
    answer = api.get("/v1/analyses/profiles", params={"run": run.name}).json()
    assert [row["sigma_rel"] for row in answer["rows"]] == sorted(VALUES)
    stored = next(row for row in answer["rows"] if row["sigma_rel"] == 0.05)
    assert (stored["snapshots"], stored["profile_error"]) == (1, 0)
    assert answer["num_images"] == seed.TIMES[-1]


def test_mistakes_are_one_sentence(api: Api, run: Run) -> None:
    empty = seed.run(api.catalog, "empty")
    for path, status, sentence in (
        ("ema-length?run=none", 422, "run 'none' is neither the id nor the name of a run"),
        (f"ema-length?run={empty.name}", 409, "there are no finished evaluations of power-function EMAs"),
        (f"profiles?run={empty.name}", 409, "run empty has no finished reconstruction"),
        (f"ema-length?run={run.name}&figure=fid", 409, "with figure fid; finished evaluations have frechet"),
        (f"fig5?run={run.name}", 422, "must be 'ema-length', 'tensors'"),
        ("ema-length", 422, "run"),
    ):
        answer = api.get(f"/v1/analyses/{path}")
        assert answer.status_code == status, path
        assert sentence in answer.json()["detail"]


class Seen(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_compares_runs_and_stands_alone(api: Api, run: Run) -> None:
    other = seed.run(api.catalog, "other")
    for width, weights in reconstructions(api, other).items():
        evaluate(api.catalog, api.store, weights, VALUES[width] + 0.1)
    answer = api.get("/v1/reports", params={"run": [run.name, other.name]})
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; img-src data:")
    page = Seen(answer.text)
    assert not page.tags & {"script", "link", "iframe", "form"}
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert re.findall(r"https?:|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", answer.text)) == []
    space = "\N{NO-BREAK SPACE}"
    for sentence in (
        f"For digits σ_rel 10{space}% scores best",
        f"13{space}% cannot be told from it",
        "The best length of other is worse by 0.1",
        "The configurations of the runs are equal.",
        "How much two trainings of one configuration differ.",
        "The same noise under every length",
    ):
        assert sentence in page.text, sentence
    # Curve, comparison and profiles for light and dark pages; real digits, best grid, and a grid per length.
    assert len(page.addresses) == 2 * 3 + 2 + 2 * len(VALUES)


SPEC = {"num_images": seed.TIMES[-1], "num_steps": 32}
ANSWER: dict[str, Any] = {
    "figure": "frechet",
    "point": {"sigma_rel": 0.11},
    "value": 0.39,
    "standard_error": 0.01,
    "num_samples": 200,
    "interval": {"sigma_rel": [0.09, 0.12]},
    "at_edge": {},
    "curve": [{"point": {"sigma_rel": w}, "value": 0.4 + abs(w - 0.11), "difference_error": 0.01} for w in (0.05, 0.2)],
    "pictures": 12_345,
}


@only("sqlite")
def test_a_report_shows_the_best_grids_that_fit(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> list[str]:
        html = api.get("/v1/reports", params={"run": run.name}).text
        gallery = html[html.index("The same noise under every length") :]
        return re.findall(r"alt='Pictures drawn at ([^']+)'", gallery[: gallery.index("<h2>", 1)])

    assert shown() == ["5 %", "10 %", "13 %"]
    monkeypatch.setattr(gallery_section, "MOST_GRIDS", 2)
    assert shown() == ["10 %", "13 %"], "the best and the one that cannot be told from it"
    monkeypatch.setattr(gallery_section, "MOST_GRIDS", 3)
    with api.catalog.transaction(read_only=True) as tx:
        keys = {p.sigma_rel: p.pictures_key for p in finished_evaluations(tx, [run])}
    info = api.store.head(str(keys[0.1]))
    assert info is not None
    monkeypatch.setattr(report_service, "MOST_BYTES_OF_ALL_GRIDS", 2 * info.size)
    assert shown() == ["10 %", "13 %"]


def test_a_report_tells_the_answer_of_the_newest_search(api: Api, run: Run) -> None:
    others = ({"point": {"sigma_rel": 0.3, "guidance": 2}}, {"of": "another version"})
    for number, result in enumerate((ANSWER, *others)):
        _search(api.catalog, run, number, SPEC, result)
    text = Seen(api.get("/v1/reports", params={"run": run.name}).text).text
    space = "\N{NO-BREAK SPACE}"
    for sentence in (
        f"A search on digits after {seed.TIMES[-1]:,} images, with 12,345 pictures, puts the optimum of frechet at",
        f"frechet at 11{space}%, between 9{space}% and 12{space}%",
        "for 200 pictures.",
    ):
        assert sentence in text
    assert "The search's model of the figure" in text


def _search(catalog: Catalog, run: Run, number: int, spec: dict[str, Any], result: dict[str, Any]) -> None:
    with catalog.transaction() as tx:
        study, _ = tx.studies.find_or_create(
            kind=StudyKind.SEARCH, run_id=run.id, spec=spec, content_key=f"search:{number}"
        )
        job, _ = tx.jobs.enqueue(JobKind.SEARCH, payload={}, content_key=f"job:{number}", run_id=run.id)
        tx.studies.assign(study.id, job)
        tx.studies.complete(study.id, result)
    with catalog.transaction() as tx:
        claimed = tx.leases.claim([JobKind.SEARCH], owner="test", lease_seconds=600)
        assert claimed is not None
        tx.leases.succeed(claimed.id, claimed.fence, {})


@pytest.mark.parametrize("config", [{}, {"network": 3, "dataset": {"folder": "mine"}, "learning_rate": 0.1}])
def test_a_report_of_a_run_of_another_training_loop(api: Api, config: dict[str, Any]) -> None:
    api.post("/v1/runs/external", {"name": "mine", "config": config, "total_images": 6400})
    answer = api.get("/v1/reports", params={"run": "mine"})
    assert answer.status_code == 200
    assert "There are no evaluations yet." in answer.text


def test_a_report_of_a_run_without_evaluations_says_how_to_make_some(api: Api) -> None:
    empty = seed.run(api.catalog, "empty")
    text = Seen(api.get("/v1/reports", params={"run": empty.name}).text).text
    assert "There are no evaluations yet." in text
    assert "$" not in text
