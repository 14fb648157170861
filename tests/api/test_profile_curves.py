"""`/v1/runs/{run}/profile-curves`: the plan of a reconstruction, drawn over training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from phema.shared.catalog import Run
from phema.shared.edm2.averaging.weightings import PowerWeighting, UniformWeighting
from phema.shared.snapshots.profile import Profile
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/profile-curves"


@pytest.fixture
def run(api: Api) -> Run:
    return seed.trained(api.catalog, api.store)


def curves(api: Api, **body: Any) -> Any:
    response = api.post(PATH, body)
    assert response.status_code == 200, response.text
    return response.json()


@only("sqlite")
def test_anonymous_gets_401(guarded: Api) -> None:
    problem(guarded.anonymous("POST", PATH), 401, "unauthorized")


def test_curves_are_the_plan_s_densities(api: Api, run: Run) -> None:
    body = {"sigma_rel": [0.05, 0.15], "num_images": 22_400}
    found = curves(api, **body, points=300)
    assert found["plan"] == api.post("/v1/runs/digits/reconstructions", body | {"plan_only": True}).json()
    assert [(c["output"], c["pattern"], c["label"]) for c in found["curves"]] == [(0, None, "0.05"), (1, None, "0.15")]
    assert [len(c["times"]) for c in found["curves"]] == [300, 300]
    for curve, output in zip(found["curves"], found["plan"]["outputs"], strict=True):
        times = np.array(curve["times"])
        assert all(a < b for a, b in pairwise(curve["times"]))
        assert times[-1] == 22_400
        wanted = PowerWeighting(22_400, curve["sigma_rel"]).density(times) * 22_400
        np.testing.assert_allclose(curve["wanted"], wanted, rtol=1e-5, atol=1e-30)
        made = sum(
            c * PowerWeighting(s["num_images"], s["sigma_rel"]).density(times) * 22_400
            for c, s in zip(output["coefficients"], found["plan"]["snapshots"], strict=True)
        )
        np.testing.assert_allclose(curve["reconstructed"], made, rtol=1e-5, atol=1e-6)
        shares = [(s["num_images"], s["sigma_rel"], s["coefficients"][curve["output"]]) for s in found["shares"]]
        planned = zip(found["plan"]["snapshots"], output["coefficients"], strict=True)
        assert shares == [(s["num_images"], s["sigma_rel"], c) for s, c in planned]


@only("sqlite")
def test_patterns_have_curves_of_their_own(api: Api) -> None:
    seed.weights(api.catalog, api.store, seed.run(api.catalog), [Profile.power(0.05), Profile.power(0.10)])
    tensors = [{"pattern": "enc.*", "profile": {"kind": "uniform", "window_images": 6400}}]
    found = curves(api, sigma_rel=0.1, tensors=tensors, points=20)
    default, encoder = found["curves"]
    assert [(c["output"], c["pattern"], c["label"]) for c in (default, encoder)] == [
        (0, None, "0.1"),
        (0, "enc.*", "mean-6400"),
    ]
    window = UniformWeighting(25_600, 6400).density(np.array(encoder["times"])) * 25_600
    np.testing.assert_allclose(encoder["wanted"], window, rtol=1e-5)
    (of_pattern,) = found["plan"]["outputs"][0]["tensors"]
    assert [share["coefficients"][1] for share in found["shares"]] == of_pattern["coefficients"]
    body = {"sigma_rel": 0.1, "tensors": [{**tensors[0], "pattern": "nothing"}]}
    assert "matches none" in problem(api.post(PATH, body), 422, "invalid")["detail"]


@only("sqlite")
def test_a_basis_is_drawn_as_the_snapshots_that_it_was_made_of(api: Api, run: Run) -> None:
    assert api.post("/v1/runs/digits/bases", {}).status_code == 202
    seed.finish_basis(api.catalog, api.store, num_bytes=8)
    found = curves(api, sigma_rel=0.13, num_images=25_600)
    assert found["plan"]["basis_id"] is not None
    (curve,) = found["curves"]
    assert {share["sigma_rel"] for share in found["shares"]} == set(seed.STORED)
    times = np.array(curve["times"])
    made = sum(
        share["coefficients"][0] * PowerWeighting(share["num_images"], share["sigma_rel"]).density(times) * 25_600
        for share in found["shares"]
    )
    np.testing.assert_allclose(curve["reconstructed"], made, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(curve["reconstructed"], curve["wanted"], atol=0.3)


@only("sqlite")
def test_raw_weights_have_no_curve(api: Api, run: Run) -> None:
    (curve,) = curves(api, profiles=[{"kind": "raw"}])["curves"]
    assert curve["wanted"] is None
    assert curve["reconstructed"] is not None


@only("sqlite")
def test_mistakes_are_one_sentence(api: Api, run: Run) -> None:
    said = problem(api.post(PATH, {"sigma_rel": 0.1, "points": 10}), 422, "invalid")
    assert said["errors"][0]["field"] == "points"
    many = [0.02 + 0.001 * i for i in range(150)]
    said = problem(api.post(PATH, {"sigma_rel": many, "points": 2000}), 422, "invalid")
    assert "points 2000 for 150 curves are 300,000 values; a request takes at most 200,000" in said["detail"]
    problem(api.post(PATH, {}), 422, "invalid")
    seed.run(api.catalog, "empty")
    problem(api.post("/v1/runs/empty/profile-curves", {"sigma_rel": 0.1}), 409, "no-snapshots")
    problem(api.post("/v1/runs/nothing/profile-curves", {"sigma_rel": 0.1}), 404, "not-found")
