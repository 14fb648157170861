"""Browsers exchange the token for a session; what a session changes needs its CSRF token."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie

import httpx
import pytest

from phema.services.api.http.sessions import SESSION_SECONDS, Sessions
from tests.api.conftest import TOKEN
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

pytestmark = only("sqlite")

BROWSER = {"Authorization": "", "Accept": "text/html,*/*"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
RUN = {"name": "one", "preset": "digits-tiny"}


def sign_in(api: Api, token: str = TOKEN, wanted: str = "/runs", **headers: str) -> httpx.Response:
    return api.request(
        "POST", "/sign-in", data={"token": token, "next": wanted}, headers={**BROWSER, **FORM, **headers}
    )


def cookie_of(answer: httpx.Response) -> dict[str, str]:
    """The header with which a browser sends the cookie back."""
    ((name, morsel),) = SimpleCookie(answer.headers["set-cookie"]).items()
    return {**BROWSER, "Cookie": f"{name}={morsel.value}"}


def csrf_of(api: Api, cookie: Mapping[str, str]) -> str:
    found = re.search(r'data-csrf="(\w+)"', api.get("/runs", headers=cookie).text)
    assert found is not None
    return found[1]


def test_a_page_leads_to_the_sign_in_page_and_back(guarded: Api) -> None:
    answer = guarded.get("/runs?state=failed", headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "./sign-in?next=/runs%3Fstate%3Dfailed")
    assert guarded.get("/jobs/job-1", headers=BROWSER).headers["location"] == "../sign-in?next=/jobs/job-1"
    form = guarded.get("/sign-in?next=/runs%3Fstate%3Dfailed", headers=BROWSER)
    assert 'value="/runs?state=failed"' in form.text
    done = sign_in(guarded, wanted="/runs?state=failed")
    assert (done.status_code, done.headers["location"]) == (303, "./runs?state=failed")
    page = guarded.get("/runs", headers=cookie_of(done))
    assert page.status_code == 200
    assert TOKEN not in page.text


def test_programs_get_401_and_no_redirect(guarded: Api) -> None:
    problem(guarded.anonymous("GET", "/v1/runs"), 401, "unauthorized")
    problem(guarded.get("/v1/runs", headers=BROWSER), 401, "unauthorized")
    problem(guarded.anonymous("GET", "/runs"), 401, "unauthorized")


def test_a_wrong_token_is_refused(guarded: Api) -> None:
    for wrong in ("", "x", TOKEN + "x", TOKEN.upper()):
        answer = sign_in(guarded, wrong)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert "This is not the token" in answer.text


@pytest.mark.parametrize("forwarded", ["", "https", "https, http"])
def test_scripts_cannot_read_the_cookie_and_other_sites_cannot_send_it(guarded: Api, forwarded: str) -> None:
    (morsel,) = SimpleCookie(
        sign_in(guarded, **{"X-Forwarded-Proto": forwarded} if forwarded else {}).headers["set-cookie"]
    ).values()
    assert morsel["httponly"] is True
    assert morsel["samesite"] == "strict"
    assert morsel["path"] == "/"
    assert bool(morsel["secure"]) == bool(forwarded)
    assert int(morsel["max-age"]) == SESSION_SECONDS


def test_what_changes_something_needs_the_csrf_token(guarded: Api) -> None:
    cookie = cookie_of(sign_in(guarded))
    assert guarded.get("/v1/runs", headers=cookie).status_code == 200
    other = csrf_of(guarded, cookie_of(sign_in(guarded)))
    for given in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": other}, {"Authorization": "Bearer wrong"}):
        detail = problem(guarded.post("/v1/runs", RUN, headers={**cookie, **given}), 403, "forbidden")["detail"]
        assert "CSRF token" in detail
    right = {**cookie, "X-CSRF-Token": csrf_of(guarded, cookie)}
    assert guarded.post("/v1/runs", RUN, headers=right).status_code == 201


def test_forged_and_old_sessions_are_refused(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Sessions(TOKEN).cookie_name
    good = Sessions(TOKEN).begin().cookie
    until, nonce, signature = good.split(".")
    forged = [f"{int(until) + 1}.{nonce}.{signature}", f"{until}.{'0' * 32}.{signature}", "x", "", good[:-1]]
    forged.append(Sessions("another token").begin().cookie)
    for value in forged:
        problem(guarded.get("/v1/runs", headers={**BROWSER, "Cookie": f"{name}={value}"}), 401, "unauthorized")
    header = {**BROWSER, "Cookie": f"{name}={good}"}
    assert guarded.get("/v1/runs", headers=header).status_code == 200
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 2)
    problem(guarded.get("/v1/runs", headers=header), 401, "unauthorized")


def test_another_site_cannot_sign_its_visitors_in(guarded: Api) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert sign_in(guarded, **headers).status_code == 403
    for headers in ({"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}):
        assert sign_in(guarded, **headers).status_code == 303


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "", "evil"])
def test_signing_in_never_leads_to_another_host(guarded: Api, wanted: str) -> None:
    assert sign_in(guarded, wanted=wanted).headers["location"] == "./"


def test_signing_out_forgets_the_cookie(guarded: Api) -> None:
    cookie = cookie_of(sign_in(guarded))
    problem(guarded.post("/sign-out", {}, headers=cookie), 403, "forbidden")
    answer = guarded.post("/sign-out", {}, headers={**cookie, "X-CSRF-Token": csrf_of(guarded, cookie)})
    assert answer.status_code == 204
    assert "max-age=0" in answer.headers["set-cookie"].lower()


def test_without_a_token_there_is_nothing_to_sign_in_to(api: Api) -> None:
    assert api.get("/sign-in", headers=BROWSER).headers["location"] == "./"
    assert api.get("/runs", headers=BROWSER).status_code == 200
