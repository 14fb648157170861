"""`/v1/presets`."""

from __future__ import annotations

import pytest

from phema.shared.recipes.presets import PRESETS
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
def test_every_preset_says_what_it_costs_and_what_to_expect(api: Api) -> None:
    items = {item["name"]: item for item in api.all("/v1/presets")}
    small = items["edm2-img512-s"]
    assert (small["num_parameters"], small["num_parameters_without_uncertainty"]) == (280_212_837, 280_212_709)
    assert small["gflops"] == pytest.approx(102.2, abs=0.7)
    assert small["training_zettaflops"] == pytest.approx(0.66, abs=0.01)
    assert (small["fid"], small["fid_sigma_rel"]) == (2.56, 0.13)
    assert small["summary"] == "Configuration G, 192 channels, on ImageNet-512 latents, 1000 classes."
    assert items["digits-c"]["fid"] is None


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
