"""Evaluations, sweeps and searches, models, jobs, system: what they show, and that everybody can use them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import urlsplit

import httpx
import pytest

from phema.services.api.pages.rendering.formatting import error
from phema.shared.catalog import JobKind
from tests.fixtures.browser import Visit
from tests.pages import studies
from tests.pages.conftest import DESKTOP, PHONE, Scheme, Seeded

LIGHTEST = 200_000
"""Bytes of a page with its scripts and styles."""


@pytest.fixture(scope="module")
def places(seeded: Seeded) -> dict[str, str]:
    """The path of each page, by name."""
    sweep, search, model = studies.add_sweep(seeded), studies.add_search(seeded), studies.add_model(seeded)
    with seeded.catalog.transaction(read_only=True) as tx:
        run = tx.runs.get(studies.RUN)
        found = tx.evaluations.finished(run.id, 100)
        evaluation = next(one.id for one in found if one.reconstruction.sigma_rel == 0.13)
    return {
        "evaluations": "evaluations",
        "evaluation": f"evaluations/{evaluation}",
        "studies": "studies",
        "sweep": f"sweeps/{sweep}",
        "search": f"searches/{search}",
        "models": "models",
        "model": f"models/{model}",
        "jobs": "jobs",
        "job": f"jobs/{seeded.runs['digits-wide'].job_id}",
        "system": "system",
        "retention": f"system/retention?run={studies.RUN}",
    }


NAMES = (
    "evaluations",
    "evaluation",
    "studies",
    "sweep",
    "search",
    "models",
    "model",
    "jobs",
    "job",
    "system",
    "retention",
)


@pytest.mark.parametrize(("scheme", "width"), [("light", DESKTOP), ("dark", PHONE)])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_light_and_everybody_can_use_it(
    seeded: Seeded, places: dict[str, str], visit: Callable[..., Visit], name: str, scheme: Scheme, width: int
) -> None:
    seen = visit(f"{seeded.url}/{places[name]}", scheme, width)
    assert seen.barriers() == []
    assert seen.sideways() == 0
    assert seen.weight() < LIGHTEST
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(seeded.url).netloc}


def test_pages_show_what_the_api_says(seeded: Seeded, places: dict[str, str]) -> None:
    weights = httpx.get(f"{seeded.url}/v1/{places['evaluation']}", timeout=60).json()["reconstruction_id"]
    predicted = httpx.get(f"{seeded.url}/v1/reconstructions/{weights}", timeout=60).json()["predicted_error"]
    shown = {
        "evaluations": ["σ_rel 0.13", "frechet", "digits-recipe"],
        "evaluation": ["held_out_loss", error(predicted), "num_steps"],
        "studies": ["frechet is best at sigma_rel 0.13 (0.11 to 0.16)", "digits-constant"],
        "sweep": ["frechet is best at sigma_rel 0.13", "6 of 8 points", "its network is broken", "σ_rel 0.13"],
        "search": ["0.377 ± 0.004", "model.svg"],
        "models": ["digits:1"],
        "model": ["The best of the demo.", "frechet", "digits-constant"],
        "jobs": ["digits-wide", "The loss is not finite at 6,400 images"],
        "job": ["The trainer&#39;s node has sent no heartbeat for 60 s", "expired"],
        "system": ["none is at work, so trainings stay queued", "digits-constant"],
        "retention": ["Deletes", "snapshots"],
    }
    for name, texts in shown.items():
        page = httpx.get(f"{seeded.url}/{places[name]}", headers={"Accept": "text/html"}, timeout=60).text
        assert [text for text in texts if text not in page] == [], name
    svg = httpx.get(f"{seeded.url}/{places['search']}/model.svg?dark=true", timeout=60)
    assert svg.headers["content-type"] == "image/svg+xml"
    assert "</svg>" in svg.text


def test_filters_and_mistakes(seeded: Seeded, places: dict[str, str]) -> None:
    def page(path: str) -> tuple[int, str]:
        answer = httpx.get(f"{seeded.url}/{path}", headers={"Accept": "text/html"}, timeout=60)
        return answer.status_code, unescape(re.sub(r"<[^>]+>", " ", answer.text))

    assert "digits-recipe" not in page("evaluations?run=digits-wide")[1]
    status, text = page("jobs?kind=search&state=&run=")
    assert (status, "succeeded" in text, "digits-wide" in text) == (200, True, False)
    for path, status, sentence in (
        ("jobs?run=nobody", 422, "run 'nobody' is neither the id nor the name of a run"),
        ("jobs?kind=walk", 422, "kind"),
        ("jobs?colour=red", 422, "colour is not known here"),
        ("jobs/job-1", 404, "job-1"),
        ("evaluations/eval-1", 404, "eval-1"),
        ("models/none", 404, "none"),
        ("nothing", 404, "there is nothing at /nothing"),
    ):
        given, text = page(path)
        assert given == status, path
        assert sentence in text, path


def test_a_job_is_cancelled_from_its_page_and_the_list_follows(
    seeded: Seeded, places: dict[str, str], visit: Callable[..., Visit]
) -> None:
    listed = visit(f"{seeded.url}/jobs?run=digits-late")
    row = listed.page.locator("tbody tr").first
    assert "queued" in row.inner_text()
    seen = visit(f"{seeded.url}/jobs/{seeded.runs['digits-late'].job_id}")
    seen.page.on("dialog", lambda dialog: dialog.accept())
    seen.page.get_by_role("button", name="Cancel").click()
    seen.page.locator(".state.cancelled").first.wait_for()
    listed.page.locator("tbody tr .state.cancelled").wait_for()
    assert seen.complaints == listed.complaints == []


def test_a_hidden_tab_follows_again_when_it_is_seen(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(f"{seeded.url}/jobs?kind=retain")
    turn = "(hidden) => {Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});"
    turn += " document.dispatchEvent(new Event('visibilitychange'));}"
    with seen.page.expect_request(lambda request: "/v1/events" in request.url):
        seen.page.evaluate(turn, False)
        seen.page.evaluate(turn, True)
        seen.page.evaluate(turn, False)
    seen.page.evaluate(turn, True)
    with seeded.catalog.transaction() as tx:
        tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key="hidden", run_id=seeded.runs["digits-wide"].id)
    seen.page.evaluate(turn, False)
    seen.page.locator("tbody tr").first.wait_for()
    assert seen.complaints == []
