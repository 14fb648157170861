"""`/runs`, `/runs/new`, `/runs/{run}`, `/compare`: what they show and do, and that everybody can use them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import expect

from phema.shared.catalog import JobKind
from tests.fixtures.browser import Visit
from tests.pages.conftest import DESKTOP, PHONE, Scheme, Seeded
from tests.pages.seeding import BEST, BINS, TOTAL, history

LIGHTEST = 200_000
"""Bytes of a page with its scripts and styles."""
PATHS = (
    "runs",
    "runs/new",
    "runs/digits-constant",
    "runs/digits-wide",
    "runs/my-own-loop",
    "compare?run=digits-constant&run=digits-recipe&run=digits-late",
)


def page(seeded: Seeded, path: str) -> str:
    answer = httpx.get(f"{seeded.url}/{path}", headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


def listed(seeded: Seeded, query: str = "") -> list[str]:
    return re.findall(r'<th scope="row"><a href="./runs/([\w.-]+)"', page(seeded, f"runs{query}"))


@pytest.mark.parametrize(("scheme", "width"), [("light", DESKTOP), ("dark", PHONE)])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_light_and_everybody_can_use_it(
    seeded: Seeded, visit: Callable[..., Visit], path: str, scheme: Scheme, width: int
) -> None:
    seen = visit(f"{seeded.url}/{path}", scheme, width)
    seen.page.wait_for_load_state()
    assert seen.barriers() == []
    assert seen.sideways() == 0
    assert seen.weight() < LIGHTEST
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(seeded.url).netloc}


def test_the_list_shows_every_run_with_speed_and_best_figure(seeded: Seeded) -> None:
    newest_first = [
        "adopted",
        "my-own-loop",
        "digits-late",
        "digits-hot",
        "digits-wide",
        "digits-recipe",
        "digits-constant",
    ]
    assert listed(seeded) == newest_first
    html = page(seeded, "runs")
    rows = dict(zip(newest_first, html.split("<tr>")[2:], strict=True))
    assert re.search(r"0\.377<span class=\"soft\"> ± 0\.039</span>", rows["digits-constant"])
    assert "σ_rel 0.13, 76.8k images" in rows["digits-constant"]
    assert re.search(r"\d s left", rows["digits-wide"])
    assert "images/s" in rows["digits-wide"]
    assert "The loss is not finite at 6,400 images" in rows["digits-hot"]
    assert [name for name, row in rows.items() if "<svg" in row] == newest_first[3:]


def test_filters_orders_and_pages_are_in_the_address(seeded: Seeded) -> None:
    assert listed(seeded, "?name=CONST") == ["digits-constant"]
    assert listed(seeded, "?origin=external") == ["my-own-loop"]
    assert listed(seeded, "?state=failed&preset=digits-tiny") == ["digits-hot"]
    assert listed(seeded, "?sort=images&order=asc")[:2] == ["digits-late", "digits-hot"]
    assert "No run fits these filters." in page(seeded, "runs?name=nothing")
    html = page(seeded, "runs?sort=name&name=digits")
    assert 'aria-sort="ascending"><a href="./runs?name=digits&sort=name&order=desc"' in html
    assert '<a href="./runs?name=digits">Created</a>' in html
    assert "client.runs.list(name='digits', sort='name')" in html
    wrong = httpx.get(f"{seeded.url}/runs?sort=size", headers={"Accept": "text/html"})
    assert wrong.status_code == 422
    assert "<h1>" in wrong.text


def test_runs_are_chosen_by_keyboard_and_compared(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(f"{seeded.url}/runs?name=digits").page
    compare = seen.get_by_role("button", name="Compare the selected runs")
    expect(compare).to_be_disabled()
    for name in ("digits-constant", "digits-recipe"):
        seen.get_by_label(f"Compare {name}").focus()
        seen.keyboard.press("Space")
    # The choice survives that the list is replaced.
    with seeded.catalog.transaction() as tx:
        tx.runs.create("digits-newer", {"preset": "digits-tiny"}, "hash", 1000)
    expect(seen.get_by_role("link", name="digits-newer")).to_be_visible(timeout=30_000)
    expect(seen.get_by_label("Compare digits-recipe")).to_be_checked()
    compare.press("Enter")
    seen.wait_for_url("**/compare?run=*")
    assert set(re.findall(r"run=([\w-]+)", seen.url)) == {"digits-constant", "digits-recipe"}
    with seeded.catalog.transaction() as tx:
        tx.jobs.request_cancel(tx.runs.get("digits-newer").job_id)


def test_runs_side_by_side(seeded: Seeded) -> None:
    html = page(seeded, "compare?run=digits-constant&run=digits-recipe&run=digits-late")
    assert "3 runs side by side" in html
    best = html.split('aria-label="Best values"')[1].split("</table>")[0]
    assert best.index("digits-constant") < best.index("digits-recipe")
    assert best.count("<tr") == 3
    assert re.search(r"0\.179<span", best)
    assert "worse</td>" in best
    fields = html.split('aria-label="Configurations"')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">([\w.]+)</th>', fields) == ["learning_rate", "lr_decay_iterations"]
    assert html.count('/pictures"') == 2
    pictures = re.findall(r'(?:srcset|src)="\./(v1/analyses[^"]+)"', html)
    assert len(pictures) == 2
    for address in pictures:
        answer = httpx.get(f"{seeded.url}/{address}", timeout=60)
        assert answer.headers["content-type"] == "image/svg+xml"
    assert "Select runs in" in page(seeded, "compare")
    assert "None of these runs has a finished evaluation yet" in page(seeded, "compare?run=digits-late")
    many = httpx.get(f"{seeded.url}/compare?" + "run=digits-late&" * 13, headers={"Accept": "text/html"})
    assert many.status_code == 422
    assert "at most 12" in many.text


def test_the_page_of_a_run_says_what_is_known(seeded: Seeded) -> None:
    html = page(seeded, "runs/digits-wide")
    configuration = html.split('id="configuration"')[1].split("<details")[0]
    assert re.findall(r'<th scope="row">([\w.]+)</th>', configuration) == ["network.model_channels", "noise_level_bins"]
    attempts = html.split('id="attempt-list"')[1].split("</table>")[0]
    assert attempts.count("<tr>") == 3
    assert "no heartbeat for 60 s" in attempts
    assert f"{BEST['digits-wide'][0]}" in html.split('id="lengths"')[1]
    timeline = html.split('id="timeline"')[1]
    assert timeline.count("h0") == 20
    assert "POST v1/runs/digits-wide/cancel" in html
    assert "POST v1/runs/digits-wide/resume" not in html
    assert "POST v1/runs/digits-hot/resume" in page(seeded, "runs/digits-hot")
    assert "POST v1/runs/digits-recipe/resume" not in page(seeded, "runs/digits-recipe")
    external = page(seeded, "runs/my-own-loop")
    assert "POST v1/runs/my-own-loop/finish" in external
    assert 'id="curves"' not in external
    assert "v1/sweeps" not in external.split("same-by")[0]
    missing = httpx.get(f"{seeded.url}/runs/nobody", headers={"Accept": "text/html"})
    assert missing.status_code == 404


def test_curves_grow_while_the_run_trains(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    run = seeded.runs["digits-wide"]
    seen = visit(f"{seeded.url}/runs/digits-wide")
    chart = seen.page.locator("[data-chart=loss]")
    expect(chart.locator("path.line")).to_have_count(2)
    expect(seen.page.locator("[data-chart=noise] .legend li")).to_have_count(BINS)
    expect(seen.page.locator("[data-chart=activation] path.line")).to_have_count(4)
    chart.get_by_text("Values").click()
    expect(chart.locator("tbody tr")).to_have_count(32_000 // 1280)
    history(seeded.catalog, run, 38_400, seed_number=2)
    with seeded.catalog.transaction() as tx:
        tx.runs.set_progress(run.id, 38_400)
    expect(chart.locator("tbody tr")).to_have_count(38_400 // 1280, timeout=30_000)
    expect(seen.page.locator("#head")).to_contain_text("38,400", timeout=30_000)
    seen.page.get_by_label("Show").select_option("mean, averaged weights")
    expect(seen.page.locator("[data-chart=weight] path.line")).to_have_count(4)
    assert seen.complaints == []
    assert TOTAL > 38_400


def test_actions_of_a_run(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(f"{seeded.url}/runs/digits-recipe").page
    seen.get_by_text("Files and pins").click()
    seen.get_by_role("button", name="Pin the snapshots at 76,800 images").click()
    expect(seen.get_by_role("button", name="Unpin the snapshots at 76,800 images")).to_be_visible(timeout=30_000)
    assert "2 pinned" in page(seeded, "runs/digits-recipe")

    seen.get_by_text("Compact to a basis").click()
    seen.get_by_label("to σ_rel").fill("0.2")
    seen.get_by_role("button", name="Show the plan").click()
    expect(seen.locator(".plan")).to_contain_text("vectors", timeout=30_000)
    with seeded.catalog.transaction(read_only=True) as tx:
        assert tx.jobs.list(kind=JobKind.COMPACT).items == []
    seen.get_by_role("button", name="Do it").click()
    expect(seen.locator("#timeline")).to_contain_text("0.02 to 0.2", timeout=30_000)

    seen.get_by_text("Evaluate EMA lengths now").click()
    seen.get_by_label("EMA lengths (σ_rel)").fill("0.9")
    seen.get_by_role("button", name="Evaluate").click()
    expect(seen.locator("form[data-request='POST v1/sweeps'] .wrong").first).to_contain_text("sigma_rel")
    seen.get_by_label("EMA lengths (σ_rel)").fill("0.04, 0.08")
    seen.get_by_role("button", name="Evaluate").click()
    seen.wait_for_url("**/sweeps/*")

    seen.on("dialog", lambda dialog: dialog.accept())
    seen.goto(f"{seeded.url}/runs/digits-late")
    seen.get_by_role("button", name="Cancel").click()
    expect(seen.locator("#head .state")).to_have_text("cancelled")
    seen.get_by_role("button", name="Resume").click()
    expect(seen.locator("#head .state")).to_have_text("queued")
    seen.get_by_role("button", name="Pause").click()
    expect(seen.locator("#head .state")).to_have_text("paused")
    seen.locator("#extend summary").click()
    seen.get_by_label("New length in images").fill("1")
    seen.get_by_role("button", name="Extend").click()
    expect(seen.locator("#extend .wrong")).to_contain_text("must be larger than")
    seen.get_by_label("New length in images").fill(str(2 * TOTAL))
    seen.get_by_role("button", name="Extend").click()
    expect(seen.locator("#event-list tbody tr").first).to_contain_text("extended")
    expect(seen.locator("#event-list tbody tr").first).to_contain_text(f"to {2 * TOTAL:,} images")
    seen.get_by_role("button", name="Resume").click()
    expect(seen.locator("#head .state")).to_have_text("queued")


def test_a_new_run_shows_every_mistake_beside_its_field(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(f"{seeded.url}/runs/new").page
    expect(seen.get_by_label("Batch size")).to_have_attribute("placeholder", "64")
    seen.get_by_label("Name").fill("a b")
    seen.get_by_label("Batch size").fill("0")
    seen.get_by_label("One per line").fill("network.dropot = 0.1")
    seen.get_by_role("button", name="Start the run").click()
    wrong = seen.locator(".wrong[role=alert]")
    expect(seen.locator("#name + .wrong")).to_contain_text("must match")
    expect(wrong.first).to_be_visible()
    seen.get_by_label("Name").fill("from-the-page")
    seen.get_by_role("button", name="Start the run").click()
    expect(seen.locator("#batch + .wrong")).to_contain_text("batch_size")
    expect(wrong.filter(has_text="network.dropot")).to_contain_text("dropout")
    seen.get_by_label("Batch size").fill("128")
    seen.get_by_label("One per line").fill("network.dropout = 0.1\nlr_decay_iterations = null")
    seen.get_by_label("Tracked EMAs").fill("0.05, 0.12")
    seen.get_by_role("button", name="Start the run").click()
    seen.wait_for_url("**/runs/from-the-page")
    with seeded.catalog.transaction(read_only=True) as tx:
        config = tx.runs.get("from-the-page").config
    assert (config["batch_size"], config["network"]["dropout"], config["lr_decay_iterations"]) == (128, 0.1, None)
    assert config["ema_sigma_rels"] == [0.05, 0.12]


def test_an_empty_service_trains_the_digits_with_one_button(fresh: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(f"{fresh.url}/")
    assert seen.barriers() == []
    seen.page.get_by_role("button", name="Train the digits").click()
    seen.page.wait_for_url("**/runs/digits")
    expect(seen.page.get_by_text("The curves of the training appear here")).to_be_visible()
    with fresh.catalog.transaction(read_only=True) as tx:
        assert tx.runs.get("digits").config["preset"] == "digits-tiny"
    assert seen.complaints == []


def test_a_line_that_is_no_field_is_not_left_out_in_silence(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    page = visit(f"{seeded.url}/runs/new").page
    page.locator("#name").fill("from-lines")
    others = page.locator("#others")
    others.fill("network.dropout = 0.1\nbatch size 64")
    said = '"batch size 64" must be a field and its value, such as network.dropout = 0.1'
    assert others.evaluate("field => field.validationMessage") == said
    assert not others.evaluate("field => field.form.checkValidity()"), "the form is not sent"
    others.fill("network.dropout = 0.1")
    assert others.evaluate("field => field.form.checkValidity()")
