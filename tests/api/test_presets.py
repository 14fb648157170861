"""`/v1/presets`."""

from __future__ import annotations

from shared.recipes.presets import PRESETS
from tests.api.http import Api, problem
from tests.fixtures.catalog import only


@only("sqlite")
def test_anonymous_gets_401(guarded: Api) -> None:
    problem(guarded.anonymous("GET", "/v1/presets"), 401, "unauthorized")


@only("sqlite")
def test_every_preset_is_listed_complete(api: Api) -> None:
    items = {item["name"]: item["config"] for item in api.all("/v1/presets")}
    assert set(items) == set(PRESETS)
    assert items["digits-tiny"]["network"]["clip_act"] == 256.0
    assert items["edm2-img512-xxl"]["network"]["model_channels"] == 448


@only("sqlite")
def test_a_listed_configuration_launches_as_it_is(api: Api) -> None:
    config = {item["name"]: item["config"] for item in api.all("/v1/presets")}["digits-tiny"]
    config.pop("preset")
    created = api.post("/v1/runs", {"name": "copy", "preset": "digits-tiny", "config": config})
    assert created.status_code == 201
    assert (
        created.json()["config_hash"]
        == api.post("/v1/runs", {"name": "b", "preset": "digits-tiny"}).json()["config_hash"]
    )
