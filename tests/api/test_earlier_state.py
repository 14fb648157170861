"""A state folder (catalog and store) that an earlier phema wrote opens unchanged.

`data/state-before-the-house.tar.xz` was written by `phema up` of commit d29c30c, before everything moved below `phema`:
a run of 1,280 images, two averages stored at four times, three reconstructions, a basis and two evaluations.
`data/answers-before-the-house.json` is what that version's API answered about it.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phema.administration.rebuild import rebuild
from phema.sdk.networks import load
from phema.shared.catalog import Catalog
from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel
from phema.shared.settings import Settings
from phema.shared.snapshots.profile import Profile
from phema.shared.wiring import catalog_from
from tests.api.http import Api
from tests.fixtures.catalog import only

DATA = Path(__file__).parent / "data"
ANSWERS: dict[str, Any] = json.loads((DATA / "answers-before-the-house.json").read_text())
RUN = "before-the-house"

pytestmark = only("sqlite")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(DATA / "state-before-the-house.tar.xz") as archive:
        archive.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


@pytest.fixture
def earlier(folder: Path, open_api: Callable[[Settings], Api]) -> Api:
    """As `phema up` opens it."""
    settings = Settings(state_dir=folder)
    catalog = catalog_from(settings)
    catalog.upgrade()
    catalog.close()
    return open_api(settings)


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libm that rounds differently: every gamma is the next larger float."""
    monkeypatch.setattr(
        "phema.shared.snapshots.profile.gamma_from_sigma_rel",
        lambda sigma_rel: math.nextafter(gamma_from_sigma_rel(sigma_rel), math.inf),
    )


def holds(now: Any, then: Any) -> bool:
    """Whether an answer still has every field of the earlier one, with its value. It may have more."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(name in now and holds(now[name], then[name]) for name in then)
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(holds, now, then))
    return bool(now == then)


def test_every_answer_is_the_same(earlier: Api) -> None:
    assert holds(earlier.get("/v1/runs").json(), ANSWERS["runs"])
    assert earlier.get(f"/v1/runs/{RUN}/snapshots").json() == ANSWERS["snapshots"]
    assert earlier.get(f"/v1/runs/{RUN}/metrics").json() == ANSWERS["metrics"]
    assert holds(earlier.get("/v1/jobs").json(), ANSWERS["jobs"])
    for resource in ("reconstructions", "bases", "evaluations"):
        for document in ANSWERS[resource]:
            assert holds(earlier.get(f"/v1/{resource}/{document['id']}").json(), document)


def test_equal_requests_find_what_was_computed_then(earlier: Api) -> None:
    asked = earlier.post(f"/v1/runs/{RUN}/reconstructions", {"sigma_rel": [0.07, 0.15]}).json()
    known = [document["id"] for document in ANSWERS["reconstructions"]]
    assert [item["id"] for item in asked["reconstructions"]] == known[:2]
    per_tensor = {
        "profiles": [{"kind": "power", "sigma_rel": 0.12}],
        "tensors": [{"pattern": "*emb*", "profile": {"kind": "power", "sigma_rel": 0.08}}],
    }
    asked = earlier.post(f"/v1/runs/{RUN}/reconstructions", per_tensor).json()
    assert [item["id"] for item in asked["reconstructions"]] == known[2:]
    asked = earlier.post(f"/v1/runs/{RUN}/bases", {}).json()
    assert asked["basis"]["id"] == ANSWERS["bases"][0]["id"]
    for document in ANSWERS["evaluations"]:
        recipe = {
            name: document["recipe"][name]
            for name in ("num_samples", "num_steps", "grid", "guidance", "guide_id", "metrics")
        }
        again = earlier.post("/v1/evaluations", {"reconstruction_id": document["reconstruction_id"], **recipe})
        assert again.json()["id"] == document["id"]
    assert holds(earlier.get("/v1/jobs").json(), ANSWERS["jobs"]), "nothing was queued"


@pytest.mark.usefixtures("other_machine")
def test_another_machine_finds_what_was_computed_then(earlier: Api) -> None:
    assert Profile.power(0.1).gamma != gamma_from_sigma_rel(0.1)
    test_equal_requests_find_what_was_computed_then(earlier)


def test_another_machine_registers_no_snapshot_twice(folder: Path, earlier: Api, other_machine: None) -> None:
    catalog = catalog_from(Settings(state_dir=folder))
    with catalog.transaction() as tx:
        run = tx.runs.get(RUN)
        for row in tx.snapshots.list(run.id):
            profile = Profile.power(row.sigma_rel or 0)
            assert profile.model_dump(mode="json") != row.profile, "another gamma"
            found = tx.snapshots.find(run.id, row.num_images, profile.key)
            assert found is not None
            assert found.id == row.id
            values = {name: getattr(row, name) for name in ("num_images", "dtype", "key", "size", "sha256")}
            again, created = tx.snapshots.add(run_id=run.id, profile=profile.model_dump(mode="json"), **values)
            assert (again.id, created) == (row.id, False)
    catalog.close()


def test_plans_give_the_same_coefficients(earlier: Api) -> None:
    plan = earlier.post(f"/v1/runs/{RUN}/reconstructions", {"sigma_rel": [0.03, 0.2], "plan_only": True}).json()
    then = ANSWERS["plan"]
    assert [item["id"] for item in plan["snapshots"]] == [item["id"] for item in then["snapshots"]]
    for now, before in zip(plan["outputs"], then["outputs"], strict=True):
        # Later versions multiply in another order.
        largest = max(map(abs, before["coefficients"]))
        assert now["coefficients"] == pytest.approx(before["coefficients"], abs=1e-12 * largest, rel=0)
        assert now["predicted_error"] == pytest.approx(before["predicted_error"], rel=1e-9)


def test_downloads_are_the_bytes_of_then_and_load(earlier: Api, tmp_path: Path) -> None:
    for document in ANSWERS["reconstructions"]:
        data = earlier.get(f"/v1/reconstructions/{document['id']}/download").content
        assert hashlib.sha256(data).hexdigest() == document["sha256"]
    (tmp_path / "weights.safetensors").write_bytes(data)
    assert sum(p.numel() for p in load(tmp_path / "weights.safetensors").parameters()) > 1000


def test_the_bucket_alone_gives_the_same_catalog(earlier: Api, tmp_path: Path) -> None:
    rebuilt = Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    rebuilt.upgrade()
    rebuild(rebuilt, earlier.store)
    with earlier.app.state.services.catalog.transaction(read_only=True) as then:
        config_hash = then.runs.get(RUN).config_hash
    with rebuilt.transaction(read_only=True) as new:
        run = new.runs.get(RUN)
        assert run.config_hash == config_hash
        snapshots = {snapshot.sha256 for snapshot in new.snapshots.list(run.id)}
        assert snapshots == {document["sha256"] for document in ANSWERS["snapshots"]["items"]}
    rebuilt.close()
