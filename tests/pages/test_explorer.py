"""`/runs/{run}/explorer`: any EMA length of a run, with its profile, pictures and measured figures."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Response, expect

from phema.shared.catalog import Job, JobKind, JobState
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import preview_key
from tests.api import seed
from tests.fixtures.browser import Visit
from tests.pages.conftest import DESKTOP, PHONE, Scheme, Seeded

RUN = "digits-constant"
LATEST = 76_800
LIGHTEST = 200_000
"""Bytes of a page with its scripts and styles."""
MIXTURE = {"kind": "mixture", "profiles": [{"sigma_rel": 0.05}, {"sigma_rel": 0.2}], "weights": [1, 2]}
SPEED = {"bytes_read": 10_000, "read_seconds": 0.01, "gflops": 1.0, "draw_seconds": 0.1}

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module", autouse=True)
def first_preview(seeded: Seeded) -> None:
    """A first preview, after which the service knows that previews of this network are fast."""
    answer = httpx.post(f"{seeded.url}/v1/runs/{RUN}/previews", json={"sigma_rel": 0.0317, "seeds": "0"}, timeout=60)
    assert answer.status_code == 202, answer.text
    draw(seeded, answer.json()["id"])


def draw(seeded: Seeded, preview: str) -> None:
    """Do a queued preview as a worker would. Its pictures are of one grey that follows from its id."""
    with seeded.catalog.transaction() as tx:
        job = tx.previews.get(preview).job
        assert job is not None
        identity = job.id
    while claim(seeded).id != identity:
        pass
    grey = int(hashlib.sha256(preview.encode()).hexdigest()[:2], 16)
    data = grid_png(np.full((16, 1, 8, 8), grey, np.uint8), 4)
    info = seeded.store.put(preview_key(preview, identity), data)
    result = {"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest(), **SPEED}
    with seeded.catalog.transaction() as tx:
        tx.previews.complete(preview, result)
        tx.leases.succeed(identity, 1, {})


def claim(seeded: Seeded) -> Job:
    return seed.claim(seeded.catalog, JobKind.PREVIEW)


def state_of(seeded: Seeded, job: str) -> JobState:
    with seeded.catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(job).state


def explorer(seeded: Seeded, query: str = "", run: str = RUN) -> str:
    return f"{seeded.url}/runs/{run}/explorer{query}"


def posted(page: Page, path: str, act: Callable[[], Any], where: Callable[[Any], bool] = lambda body: True) -> Any:
    """What the act makes the page send to a path of the API, and the answer: (body, answer). `where`: which body."""

    def fits(answer: Response) -> bool:
        sent = answer.request
        return urlsplit(answer.url).path == path and sent.method == "POST" and where(sent.post_data_json)

    with page.expect_response(fits) as got:
        act()
    response = got.value
    body = response.request.post_data_json
    return body, response.json()


def press(page: Page, place: str, key: str) -> None:
    page.locator(place).focus()
    page.keyboard.press(key)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


@pytest.mark.parametrize(("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)])
@pytest.mark.parametrize("run", [RUN, "digits-late"])
def test_the_page_is_light_and_everybody_can_use_it(
    seeded: Seeded, visit: Callable[..., Visit], run: str, scheme: Scheme, width: int
) -> None:
    seen = visit(explorer(seeded, run=run), scheme, width)
    if run == RUN:
        expect(seen.page.locator("#measured-sentence")).to_contain_text("Best")
        # The tables of the other plots have the same form, and hundreds of rows.
        for summary in seen.page.locator(".card > summary, .same-by > summary, .measured summary").all():
            summary.click()
    else:
        expect(seen.page.locator(".empty")).to_contain_text("no snapshots yet")
    assert seen.barriers() == []
    assert seen.sideways() == 0
    assert seen.weight() < LIGHTEST
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(seeded.url).netloc}


def test_the_keyboard_moves_the_average_and_every_number_is_that_of_the_api(
    seeded: Seeded, visit: Callable[..., Visit]
) -> None:
    seen = visit(explorer(seeded, "?sigma_rel=0.1"))
    page = seen.page
    curves = f"/v1/runs/{RUN}/profile-curves"
    wanted = page.locator("#profile-plot path.dashed")
    before = wanted.get_attribute("d")
    body, answer = posted(page, curves, lambda: press(page, "#sigma-slider", "ArrowRight"))
    fine = body["sigma_rel"]
    assert 1.005 < fine / 0.1 < 1.015
    expect(page.locator("#sigma_rel")).to_have_value(f"{fine}")
    expect(wanted).not_to_have_attribute("d", before or "")
    body, answer = posted(page, curves, lambda: press(page, "#sigma-slider", "PageUp"))
    coarse = body["sigma_rel"]
    assert coarse / fine > 1.2
    assert body["num_images"] == LATEST
    [output] = answer["plan"]["outputs"]
    shown = page.locator("[data-fact=predicted_error]")
    expect(shown).to_have_text(re.compile(r"^[0-9.e-]+ %$"))
    assert float(shown.inner_text().removesuffix(" %")) == pytest.approx(100 * output["predicted_error"], rel=0.05)
    expect(page.locator("[data-fact=snapshots]")).to_have_text(str(len(answer["plan"]["snapshots"])))
    at_90 = next(one for one in output["learning_rate"] if one["num_images"] == round(0.9 * LATEST))
    sentence = f"a learning rate of {100 * at_90['multiplier']:.0f} % at 90 % of training"
    expect(page.locator("#meaning")).to_contain_text(sentence)
    page.wait_for_url(f"**sigma_rel={coarse}**")
    # The curve that the browser computes is the one that the API sends: its end is γ + 1.
    assert max(answer["curves"][0]["wanted"]) == pytest.approx(Profile.power(coarse).gamma + 1, rel=1e-3)
    page.locator(".profile .values summary").first.click()
    last = page.locator(".profile .values tbody tr").last
    assert [float(cell) for cell in last.locator("td").all_inner_texts()[1:]] == pytest.approx(
        [Profile.power(coarse).gamma + 1] * 2, rel=0.02
    )
    assert seen.complaints == []


def test_pictures_follow_the_slider_and_stale_ones_are_cancelled(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(explorer(seeded, "?sigma_rel=0.05&seed=100"))
    page, path = seen.page, f"/v1/runs/{RUN}/previews"
    picture = page.locator("#preview")
    body, first = posted(
        page, path, lambda: press(page, "#sigma-slider", "ArrowRight"), lambda sent: sent["sigma_rel"] > 0.05
    )
    assert body["seeds"] == "100-115"
    draw(seeded, first["id"])
    expect(picture).to_have_attribute("data-shown", f"σ_rel {body['sigma_rel']}")
    shown = picture.get_attribute("src")
    assert first["id"] in (shown or "")
    expect(page.locator("#frame")).not_to_have_class("stale")
    _, stale = posted(page, path, lambda: press(page, "#sigma-slider", "PageUp"))
    expect(page.locator("#frame")).to_have_class("frame stale")
    assert picture.get_attribute("src") == shown  # the old pictures stay until there are new ones
    body, fresh = posted(page, path, lambda: press(page, "#sigma-slider", "PageUp"))
    until(lambda: state_of(seeded, stale["job_id"]) is JobState.CANCELLED)
    draw(seeded, fresh["id"])
    expect(picture).to_have_attribute("data-shown", f"σ_rel {body['sigma_rel']}")
    assert fresh["id"] in (picture.get_attribute("src") or "")
    expect(page.locator("#preview-caption")).to_contain_text(f"σ_rel {body['sigma_rel']}")
    # A picture that was drawn before is shown at once, from the catalog.
    press(page, "#sigma-slider", "PageDown")
    press(page, "#sigma-slider", "PageDown")
    expect(picture).to_have_attribute("src", shown or "")
    assert seen.complaints == []


def test_the_address_is_the_state(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    reconstruction = seed_guide(seeded)
    query = (
        f"?kind=lr_decay&shape=cosine&length_images=12800&num_images=64000&num_steps=8&guidance=1.5&guide_id="
        f"{reconstruction}&guidance_low=0.1&guidance_high=2.5&seed=32&class_label=3&figure=held_out_loss"
    )
    seen = visit(explorer(seeded, query))
    page = seen.page
    sent = json.loads(page.locator("#explorer-data").inner_text())
    assert sent["curves"]["plan"]["num_images"] == 64_000
    assert sent["curves"]["plan"]["outputs"][0]["profile"] == {
        "kind": "lr_decay",
        "shape": "cosine",
        "length_images": 12_800,
    }
    body, _ = posted(
        page,
        f"/v1/runs/{RUN}/previews",
        lambda: press(page, "#explorer [name=seed]", "ArrowUp"),
        lambda sent: sent["seeds"] == "33-48",
    )
    assert body == {
        "profiles": [{"kind": "lr_decay", "shape": "cosine", "length_images": 12_800}],
        "num_images": 64_000,
        "seeds": "33-48",
        "class_label": "3",
        "num_steps": 8,
        "guidance": 1.5,
        "guide_id": reconstruction,
        "guidance_interval": [0.1, 2.5],
    }
    page.wait_for_url("**seed=33**")
    assert query_of(page) == parse_qs(query[1:].replace("seed=32", "seed=33"))
    expect(page.locator("#time-slider")).to_have_attribute("aria-valuetext", "64,000 images")
    body, _ = posted(page, f"/v1/runs/{RUN}/profile-curves", lambda: press(page, "#time-slider", "ArrowRight"))
    assert body["num_images"] == 67_200
    same = page.locator("details.same-by")
    same.locator("summary").click()
    expect(same).to_contain_text('"num_images": 67200')
    expect(same).to_contain_text("phema reconstruct digits-constant --lr-decay cosine:12800 --at 67200 --plan")
    assert seen.complaints == []


def seed_guide(seeded: Seeded) -> str:
    with seeded.catalog.transaction(read_only=True) as tx:
        rows = tx.reconstructions.finished(seeded.runs["digits-recipe"].id, None, 1)
    return rows[0].id


@pytest.mark.parametrize(
    ("query", "profile"),
    [
        ("gamma=6.94", {"kind": "power"}),
        ("kind=uniform&last_times=3", {"kind": "uniform"}),
        ("kind=exponential&half_life_images=4000", {"kind": "exponential", "half_life_images": 4000}),
        (f"profile={quote(json.dumps(MIXTURE))}", {"kind": "mixture", "weights": [1.0, 2.0]}),
        ("kind=sampled&times=38400,76800&weights=1,3", {"kind": "sampled", "times": [38_400, 76_800]}),
    ],
)
def test_an_address_may_name_any_kind_of_average(seeded: Seeded, query: str, profile: dict[str, Any]) -> None:
    answer = httpx.get(explorer(seeded, f"?{query}"), headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == 200, answer.text
    text = answer.text.split('id="explorer-data">')[1].split("</script>")[0]
    shown = json.loads(text)["curves"]["plan"]["outputs"][0]["profile"]
    assert profile.items() <= shown.items()


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ("sigma_rel=0.5", 422, "0.5 is impossible"),
        ("num_images=6000", 422, "num_images 6000 has no snapshot"),
        ("kind=cubic", 422, "kind"),
        ("profile=[1]", 422, "must be a JSON object"),
        ("tensor=*emb*", 422, "must be a pattern and an EMA length"),
        ("sigma=0.1", 422, "did you mean"),
    ],
)
def test_a_wrong_address_is_told_in_one_sentence(seeded: Seeded, query: str, status: int, sentence: str) -> None:
    answer = httpx.get(explorer(seeded, f"?{query}"), headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == status
    assert "text/html" in answer.headers["content-type"]
    assert sentence in answer.text


def test_a_click_on_a_measured_point_goes_there(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(explorer(seeded, "?sigma_rel=0.05"))
    page, plot = seen.page, seen.page.locator("#measured-plot")
    expect(page.locator("#measured-sentence")).to_contain_text("Best: 0.377")
    expect(page.locator("#measured-sentence")).to_contain_text("at σ_rel 0.13")
    plot.scroll_into_view_if_needed()
    best = plot.locator("path.points.green").bounding_box()
    assert best is not None
    page.mouse.click(best["x"] + best["width"] / 2, best["y"] + best["height"] / 2)
    expect(page.locator("#sigma_rel")).to_have_value("0.13")
    page.wait_for_url("**sigma_rel=0.13**")
    # The same with the keyboard: the first point is the shortest average.
    press(page, "#measured-plot", "Home")
    expect(page.locator(".measured .readout")).to_contain_text("0.03")
    page.keyboard.press("Enter")
    expect(page.locator("#sigma_rel")).to_have_value("0.03")
    page.locator("#figure").select_option("held_out_loss")
    expect(page.locator("#measured-sentence")).to_contain_text("Best: 0.14")
    page.wait_for_url("**figure=held_out_loss**")
    press(page, "#time-slider", "ArrowLeft")
    expect(page.locator("#measured-sentence")).to_contain_text("No EMA length is evaluated at 73,600 images")
    assert seen.complaints == []


def test_mistakes_are_told_beside_the_average(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    page = visit(explorer(seeded, "?sigma_rel=0.1")).page
    problem = page.locator("#average-error")
    page.locator("#sigma_rel").fill("0.4")
    expect(problem).to_contain_text("σ_rel 0.4 must lie between 0 and 0.2887")
    expect(page.locator("#sigma_rel")).to_have_attribute("aria-invalid", "true")
    page.locator("#sigma_rel").fill("0.2")
    expect(problem).to_be_hidden()
    page.locator("#kind").select_option("lr_decay")
    page.locator("[name=length_images]").fill("99999999")
    expect(problem).to_contain_text("length_images 99999999 of the decay must be at most num_images 76800")
    page.locator("[name=length_images]").fill("12800")
    expect(problem).to_be_hidden()
    page.locator("#kind").select_option("json")
    expect(page.locator("#lineage")).to_contain_text("mixture")
    page.locator("[name=profile]").fill("{")
    expect(problem).to_contain_text("The profile is not JSON")
    page.locator("[name=profile]").fill(json.dumps(MIXTURE))
    # The address follows a moment after the field: it held another mixture already.
    page.wait_for_url(
        lambda url: MIXTURE in [json.loads(found) for found in parse_qs(urlsplit(url).query).get("profile", [])]
    )
    page.reload()
    expect(page.locator("[name=profile]")).to_have_value(json.dumps(MIXTURE))
    page.locator(".sampler summary").click()
    page.locator("#explorer [name=guidance]").fill("2")
    expect(problem).to_contain_text("guidance 2 needs guide_id")
    expect(page.locator("#explorer [name=guide_id]")).to_be_visible()


def test_tensors_may_have_their_own_length(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    run = seed.run(seeded.catalog, "with-tensors")
    profiles = [Profile.power(0.05), Profile.power(0.1)]
    seed.weights(seeded.catalog, seeded.store, run, profiles, seed.TIMES)
    seen = visit(explorer(seeded, "?sigma_rel=0.1", run.name))
    page = seen.page
    page.locator(".tensors summary").click()
    page.locator("#add-tensor").click()
    expect(page.locator("[data-part=pattern]").first).to_be_focused()
    page.locator("[data-part=sigma]").first.fill("0.2")
    page.locator("[data-part=pattern]").first.fill("*emb*")
    expect(page.locator(".profile .legend").first).to_contain_text("reconstructed *emb*")
    page.wait_for_url(f"**tensor={quote('*emb*=0.2', safe='*')}**")
    page.reload()
    expect(page.locator("[data-part=pattern]").first).to_have_value("*emb*")
    expect(page.locator(".profile .legend").first).to_contain_text("reconstructed *emb*")
    page.locator("[data-remove]").first.click()
    expect(page.locator(".profile .legend").first).not_to_contain_text("*emb*")
    assert seen.complaints == []


def test_actions_make_rows(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    run = seed.trained(seeded.catalog, seeded.store, "acted-on")
    seen = visit(explorer(seeded, "?sigma_rel=0.08", run.name))
    page = seen.page

    def submit(dialog: str, fields: dict[str, str] | None = None) -> None:
        page.locator(f"[data-dialog={dialog}]").click()
        form = page.locator(f"#{dialog}")
        for name, value in (fields or {}).items():
            form.locator(f"[name={name}]").fill(value)
        assert seen.barriers() == []
        form.locator("button.primary").click()

    body, answer = posted(
        page, "/v1/sweeps", lambda: submit("sweep", {"sigma_rel": "0.05, 0.1", "num_samples": "200", "num_steps": "8"})
    )
    assert (body["run"], body["sigma_rel"], body["num_images"]) == (run.name, [0.05, 0.1], [seed.TIMES[-1]])
    assert answer["num_points"] == 2
    expect(page.locator("#toast")).to_contain_text(answer["id"])
    expect(page.locator("#stored")).to_contain_text("sweep")
    body, answer = posted(page, "/v1/searches", lambda: submit("search", {"low": "0.03", "high": "0.2"}))
    assert body["sigma_rel"] == [0.03, 0.2]
    assert answer["state"] == "queued"

    # Evaluate and promote need weights: they are reconstructed first.
    _, made = posted(page, f"/v1/runs/{run.name}/reconstructions", lambda: submit("evaluate", {"num_samples": "300"}))
    with page.expect_response(lambda one: one.url.endswith("/v1/evaluations")) as evaluated:
        seed.finish_reconstructions(seeded.catalog, seeded.store)
    asked = evaluated.value.request.post_data_json
    assert asked == {"reconstruction_id": made["reconstructions"][0]["id"], "num_samples": 300, "num_steps": 32}
    assert evaluated.value.status == 202
    expect(page.locator("#stored tbody")).to_contain_text("0.08")
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    assert seen.complaints == []
    # The seeded weights are random bytes, which cannot be promoted: the dialog says why.
    submit("promote", {"name": "no model at all"})
    expect(page.locator("#promote .wrong")).to_contain_text("name")


def test_a_large_network_has_a_button_with_the_seconds(seeded: Seeded, visit: Callable[..., Visit]) -> None:
    seen = visit(explorer(seeded, "?sigma_rel=0.06&num_steps=999"))
    page = seen.page
    button = page.locator("#draw")
    expect(button).to_have_text("Draw 16 pictures (about 17 s)")
    _, preview = posted(page, f"/v1/runs/{RUN}/previews", button.click, lambda sent: "plan_only" not in sent)
    draw(seeded, preview["id"])
    expect(page.locator("#preview")).to_have_attribute("data-shown", "σ_rel 0.06")
    assert seen.complaints == []
