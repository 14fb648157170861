"""What responses show: short lines, escaped HTML with tables, curves and grids, and data frames."""

from __future__ import annotations

import builtins
import copy
import io
import pickle
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from phema.client.average_models import Preview, Reconstruction
from phema.client.client import Client
from phema.client.display import curves
from phema.client.display.markup import MOST_ROWS, facts, heading, paragraph, picture, table
from phema.client.resources.analyses import Analysis, AnalysisRow
from phema.client.response_models import Evaluation, Job, Metrics, Run, Sample
from phema.client.rows import Rows
from phema.client.study_models import CurvePoint, PointWeights, ProgressCurve, Search, SearchResult, StudyPoint, Sweep
from phema.errors import PhemaError
from phema.shared import catalog
from phema.shared.catalog import JobKind
from tests.phema.hands import SEARCHED
from tests.phema.service import Service
from tests.phema.test_client import steps

HOSTILE = "<script>alert('x')</script>&\"'"


class Tags(HTMLParser):
    """Names of the elements of a page, and those that are open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert all(not name.startswith("on") for name, _ in attrs)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html(thing: Any) -> str:
    page: str = thing._repr_html_()
    tags = Tags(page)
    assert tags.open == []
    assert set(tags.seen) <= {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "img"}
    return page


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def pictures(page: str) -> list[str]:
    return re.findall(r'src="data:image/([a-z+]+);base64,', page)


def point(number: int, sigma_rel: float, value: float, **more: Any) -> StudyPoint:
    weights = PointWeights(run_id="run-1", num_images=64, profile={}, label=f"{sigma_rel:g}", sigma_rel=sigma_rel)
    return StudyPoint(
        number=number,
        state="succeeded",
        weights=weights,
        figures={"frechet": value},
        errors={"frechet": 0.01},
        **more,
    )


JOB = Job(id="job-1", kind="sweep", state="running", progress=0.5)
SWEEP = Sweep(
    id="swp-1",
    run_id="run-1",
    state="running",
    num_points=2,
    job=JOB,
    figure="frechet",
    best=1,
    answer="sigma_rel 0.1 is best",
    points=[point(0, 0.05, 2.0, difference=1.0, difference_error=0.1, distinct=True), point(1, 0.1, 1.0)],
)
SEARCH = Search(
    id="sea-1", run_id="run-1", state="succeeded", job=JOB, result=SearchResult.model_validate(SEARCHED), points=[]
)
CURVE = ProgressCurve(
    run_id="run-1",
    points=[
        CurvePoint(num_images=n, sigma_rel=0.1, figure="frechet", value=1.0 / n, evaluation_id="e") for n in (1, 2)
    ],
)
ROW: dict[str, Any] = {"num_images": 64, "label": "0.1", "value": 1.0, "difference": 0.0, "best": True, "tied": True}
ANALYSIS = Analysis(
    analysis="ema-length",
    figure="frechet",
    title="Fréchet distance",
    better="lower",
    runs=["a"],
    recipe={},
    left_out=0,
    rows=[AnalysisRow(run="a", reconstruction_id="rec-1", evaluation_id="eval-1", **ROW)],
)


def test_everything_of_a_real_run_shows_itself(service: Service, client: Client, trained: catalog.Run) -> None:
    service.progress(trained.id, 6400, loss=0.5)
    service.progress(trained.id, 12_800, loss=0.25)
    run = client.runs.get(trained.name)
    assert repr(run) == f"<Run {trained.name!r} cancelled, 12,800 of 76,800 images>" == str(run)
    assert trained.name in html(run)
    assert trained.name in html(client.runs.list())
    assert pictures(html(client.runs.metrics(run))) == ["svg+xml"]
    assert "0.05" in html(client.runs.snapshots(run))
    plan = client.plan(run, [0.07, 0.13])
    assert re.fullmatch(r"<Plan of 2 profiles at 25,600 images from \d+ snapshots, \S+ B>", repr(plan))
    assert pictures(html(plan)) == ["svg+xml"]
    made = client.reconstruct(run, [0.07, 0.13], on_progress=steps(service.reconstruct))
    assert re.fullmatch(
        rf"<Reconstruction {made[0].id} 0.07 at 25,600 images succeeded, predicted error \S+>", repr(made[0])
    )
    assert made[1].id in html(made)
    for one, frechet in zip(made, (2.0, 1.0), strict=True):
        client.evaluate(one, wait=False, num_samples=8)
        service.evaluate(frechet, pictures=png())
    found = client.evaluations.list(run)
    assert pictures(html(found)) == ["svg+xml"]
    assert repr(found[0]) == f"<Evaluation {found[0].id} 0.13 at 25,600 images succeeded, frechet 1.000>"
    page = html(found[0])
    assert (pictures(page), "frechet" in page, "pixelated" in page) == (["png"], True, True)
    frame = found.to_pandas()
    assert list(frame["figures.frechet"]) == [1.0, 2.0]
    assert list(frame["recipe.num_samples"]) == [8, 8]
    assert list(client.runs.metrics(run).to_pandas()["values.loss"]) == [0.5, 0.25]
    jobs = client.jobs.list(run=trained.name)
    assert "evaluate" in html(jobs)
    assert all("\n" not in repr(one) for one in (*jobs, *found, *client.runs.metrics(run), *client.runs.snapshots(run)))


def test_a_sample_shows_its_grid_and_survives_a_lost_service(
    service: Service, client: Client, trained: catalog.Run
) -> None:
    [made] = client.reconstruct(trained.name, 0.1, on_progress=steps(service.reconstruct))
    sample = client.sample(made, seeds="0-3", class_label=None, wait=False)
    assert pictures(html(sample)) == []
    service.draw(png())
    sample = client.samples.get(sample)
    assert pictures(html(sample)) == ["png"]
    # Responses are values: equal whatever client read them, and without a connection when they are copied elsewhere.
    assert sample == pickle.loads(pickle.dumps(sample)) == copy.deepcopy(sample)
    assert pictures(html(pickle.loads(pickle.dumps(sample)))) == []
    with Client() as other:
        same = other.samples.get(sample.id)
        assert same == sample
    assert "The pictures are not shown: the client is closed" in html(same)


@pytest.mark.parametrize("thing", [SWEEP, SEARCH, CURVE], ids=["sweep", "search", "curve"])
def test_studies_draw_their_curves(thing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures(html(thing)) == ["svg+xml"]
    monkeypatch.setattr(curves, "can_draw", lambda: False)
    page = html(thing)
    assert (pictures(page), len(page) > 20) == ([], True)


def test_studies_say_what_they_found() -> None:
    assert repr(SWEEP) == "<Sweep swp-1 running, 2 points: sigma_rel 0.1 is best>"
    assert repr(SEARCH) == "<Search sea-1 succeeded, 0 points: the best is sigma_rel 0.11>"
    assert repr(ANALYSIS) == "<Analysis ema-length of a: 1 rows of frechet>"
    assert "Fréchet distance" in html(ANALYSIS)
    assert list(SWEEP.to_pandas()["figures.frechet"]) == [2.0, 1.0]
    assert list(CURVE.to_pandas()["num_images"]) == [1, 2]
    assert list(ANALYSIS.to_pandas()["best"]) == [True]
    assert SEARCH.to_pandas().empty
    assert html(Rows[Run]()) == "<p>no entries</p>"


def test_nothing_that_is_shown_is_markup() -> None:
    weights: dict[str, Any] = {"run_id": HOSTILE, "num_images": 64, "profile": {}, "label": HOSTILE}
    config = {HOSTILE: HOSTILE}
    error = {"id": HOSTILE, "state": HOSTILE, "error": HOSTILE}
    failed = {**weights, **error, "reconstruction_id": "rec-1"}
    things: list[Any] = [
        Run(
            id=HOSTILE, name=HOSTILE, state=HOSTILE, total_images=1, preset="digits-tiny", config=config, error=HOSTILE
        ),
        Reconstruction(**weights, **error, predicted_error=0.1, noise_gain=1, advice=HOSTILE),
        Evaluation(**failed, figures={HOSTILE: 1.0}, recipe={"num_samples": HOSTILE}),
        Preview(**weights, **error, predicted_error=0.1, noise_gain=1),
        Sample(**failed, request={"format": HOSTILE}),
        Job(**error, kind=HOSTILE, message=HOSTILE),
        Metrics(num_images=1, values={HOSTILE: 1.0}),
        SWEEP.model_copy(update={"answer": HOSTILE, "figure": HOSTILE}),
        SEARCH.model_copy(update={"error": HOSTILE}),
        ANALYSIS.model_copy(update={"title": HOSTILE, "runs": [HOSTILE], "figure": HOSTILE}),
        ProgressCurve(run_id=HOSTILE, stopped=HOSTILE),
    ]
    for thing in things:
        for page in (html(thing), html(Rows([thing, thing]))):
            assert "<script" not in page
    for page in (facts([(HOSTILE, HOSTILE)]), heading(HOSTILE, HOSTILE), paragraph(HOSTILE), picture(png(), HOSTILE)):
        assert "<script" not in page
        assert '&"' not in page
    long = table((HOSTILE,), [(HOSTILE,)] * (MOST_ROWS + 5))
    assert ("<script" in long, long.count("<tr>"), "and 5 more" in long) == (False, MOST_ROWS + 1, True)


def test_a_failed_run_is_watched_to_its_end(service: Service, client: Client, name: str) -> None:
    client.runs.create(name)
    service.fail(service.claim(JobKind.TRAIN), "out of memory")
    assert client.runs.watch(name).state == "failed"


def test_without_pandas_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(module: str, *arguments: Any, **named: Any) -> Any:
        if module == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return real(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(PhemaError, match=r"^to_pandas\(\) needs pandas: pip install pandas$"):
        Rows([JOB]).to_pandas()
