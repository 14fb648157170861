"""Every kind of profile: requested through the API, computed by the worker's code without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anyio.from_thread import start_blocking_portal
from safetensors.torch import load_file
from sqlalchemy import update

import phema
from phema.administration.rebuild import rebuild
from phema.services.api.app import create_app
from phema.services.api.reconstructions.service import detail
from phema.services.phema_worker.job_tasks import complete_job, task_of
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.task_runner import TaskRunner
from phema.shared.catalog import Catalog, JobKind, Reconstruction
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.run_config import RunConfig
from phema.shared.settings import Settings
from phema.shared.snapshots.files.header import parse_header
from phema.shared.snapshots.files.snapshot_file import encode, load_tensors
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import run_key
from phema.shared.wiring import catalog_from, store_from
from tests.api.http import Api
from tests.phema_worker.lab import TIMES, Lab

STEP = 64
State = dict[str, torch.Tensor]


class House:
    """The API, a run with three kinds of averages, and a worker's task runner."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self.settings, self.api = settings, api
        self.lab = Lab(settings.state_dir, api.catalog, api.store, {})
        self._bench = TaskRunner(settings)
        self.run = self.lab.create_run()
        described = {"id": self.run.id, "name": self.run.name, "config": self.run.config}
        api.store.put(run_key(self.run.id), json.dumps(described).encode())
        self.states: dict[str, State] = {}
        self._train()

    def _train(self) -> None:
        config = RunConfig.model_validate(self.run.config)
        torch.manual_seed(11)
        network = build_denoiser(config.network)
        average = PowerFunctionEMA(network, (0.05, 0.10), half_life_images=500)
        profiles = [Profile.power(0.05), Profile.power(0.10), Profile(kind="exponential", half_life_images=500)]
        for seen in range(STEP, TIMES[-1] + 1, STEP):
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
            average.update(seen, STEP)
            if seen in TIMES:
                for index, profile in enumerate(profiles):
                    self._store(seen, profile, average.tensors(index))
        self._store(TIMES[-2], Profile(kind="raw"), network.state_dict())
        self._store(TIMES[-1], Profile(kind="raw"), network.state_dict())

    def _store(self, seen: int, profile: Profile, state: State) -> None:
        copied = {name: value.detach().clone() for name, value in state.items()}
        identity = self.lab.add_snapshot(self.run, seen, profile, copied)
        self.states[identity] = copied

    def reconstruct(self, **body: Any) -> list[Any]:
        """Request reconstructions, run the job, and return the finished reconstructions with their lineage."""
        response = self.api.post(f"/v1/runs/{self.run.name}/reconstructions", body)
        assert response.status_code == 202, response.text
        self.work(JobKind.RECONSTRUCT)
        items = response.json()["reconstructions"]
        return [self.api.get(f"/v1/reconstructions/{item['id']}").json() for item in items]

    def work(self, kind: JobKind) -> None:
        """Do the oldest queued job of a kind."""
        catalog = self.api.catalog
        with catalog.transaction() as tx:
            job = tx.leases.claim([kind], owner="test", lease_seconds=600)
            assert job is not None
            task = task_of(tx, job)
        assert task is not None
        outcome = self._bench.do(task, TaskProgress())
        assert isinstance(outcome, Done), outcome
        with catalog.transaction() as tx:
            complete_job(tx, job, task, outcome)

    def file(self, item: Any) -> bytes:
        key = self.lab.reconstruction(item["id"]).key
        assert key is not None
        return self.api.store.get(key)

    def check(self, item: Any) -> None:
        """The file holds the float64 sums that the lineage names, tensor by tensor; buffers are copied."""
        states = [self.states[s["id"]] for s in item["snapshots"]]
        for name, found in load_tensors(self.file(item)).items():
            columns = np.stack([state[name].numpy().astype(np.float64) for state in states])
            own = (t["coefficients"] for t in item["tensors"] if fnmatchcase(name, t["pattern"]))
            coefficients = next(own, item["coefficients"])
            wanted = columns[-1] if "fourier" in name else np.tensordot(coefficients, columns, axes=1)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=4e-6, err_msg=name)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    settings = Settings(state_dir=folder, store_url=(folder / "store").as_uri())
    catalog = catalog_from(settings)
    catalog.upgrade()
    with start_blocking_portal() as portal:
        api = Api(create_app(settings), portal, catalog, store_from(settings))
        yield House(settings, api)
        api.close()
    catalog.close()


def test_every_kind_is_the_sum_that_its_plan_names(house: House) -> None:
    profiles = [
        {"sigma_rel": 0.15},
        {"gamma": 5.0},
        {"kind": "exponential", "half_life_images": 300},
        {"kind": "exponential", "rampup_ratio": 0.1},
        {"kind": "uniform", "window_images": 1000},
        {"kind": "uniform", "last_times": 2},
        {"kind": "lr_decay", "shape": "cosine", "length_images": 640},
        {"kind": "lr_decay", "shape": "1-sqrt", "start_images": 1280},
        {"kind": "sampled", "times": [640, 1920, 2560], "weights": [1, 2, 4]},
        {"kind": "raw"},
    ]
    items = house.reconstruct(profiles=profiles)
    assert [item["label"] for item in items] == [
        "0.15", "0.123718", "ema", "0.11107", "mean-1000", "mean-of-2-times", "decay-cosine-640",
        "decay-1-sqrt-from-1280", "sampled", "raw",
    ]  # fmt: skip
    for item in items:
        house.check(item)
    kinds = {s["profile"]["kind"] for item in items for s in item["snapshots"]}
    assert kinds == {"power", "exponential", "raw"}
    # What is stored is that very snapshot.
    raw = load_tensors(house.file(items[-1]))
    assert items[-1]["coefficients"] == [1.0]
    (stored,) = items[-1]["snapshots"]
    assert all(torch.equal(raw[name], value) for name, value in house.states[stored["id"]].items())


def test_tensors_have_their_own_average_and_nothing_else_changes(house: House) -> None:
    own = {"*emb*": {"sigma_rel": 0.03}, "unet.enc*": {"kind": "uniform", "window_images": 640}}
    tensors = [{"pattern": pattern, "profile": profile} for pattern, profile in own.items()]
    (mixed,) = house.reconstruct(sigma_rel=0.12, tensors=tensors, regularize=True)
    house.check(mixed)
    parts = house.reconstruct(profiles=[{"sigma_rel": 0.12}, *own.values()])
    whole, files = load_tensors(house.file(mixed)), [load_tensors(house.file(part)) for part in parts]
    chosen = set()
    for name, found in whole.items():
        which = next((i for i, pattern in enumerate(own, start=1) if fnmatchcase(name, pattern)), 0)
        chosen.add(which)
        # Which snapshots are left unread depends on what else is asked for, within 2 % of the error.
        torch.testing.assert_close(found, files[which][name], rtol=0, atol=5e-3, msg=name)
    assert chosen == {0, 1, 2}


def test_plain_and_regularized_solves_give_other_weights(house: House) -> None:
    aware, plain = (
        house.reconstruct(sigma_rel=0.04, num_images=1920, regularize=choice)[0] for choice in (True, False)
    )
    for item in (aware, plain):
        house.check(item)
    # A plan leaves out snapshots as long as its errors stay within 2 % of the best; plain fits use all.
    assert aware["predicted_error"] < 1.02 * plain["predicted_error"]
    assert plain["profile_error"] < (aware["profile_error"] or 1)
    ours, theirs = (load_tensors(house.file(item))["unet.out_gain"] for item in (aware, plain))
    assert not torch.equal(ours, theirs)


def test_a_file_tells_its_lineage_and_needs_no_phema_to_be_read(house: House, tmp_path: Path) -> None:
    (item,) = house.reconstruct(sigma_rel=0.08, dtype="float16")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(house.file(item))
    found = phema.metadata(path)
    lineage = found.lineage
    assert lineage is not None
    assert (found.run_id, found.num_images, found.profile) == (house.run.id, TIMES[-1], Profile.power(0.08))
    for name in ("coefficients", "profile_error", "rounding_error", "predicted_error", "noise_gain", "regularize"):
        assert lineage[name] == item[name]
    assert [(s["id"], s["num_images"], s["sha256"], s["profile"]) for s in lineage["snapshots"]] == [
        (s["id"], s["num_images"], s["sha256"], s["profile"]) for s in item["snapshots"]
    ]
    assert found.code_version
    tensors = load_file(path)
    assert tensors["unet.out_gain"].dtype == torch.float16
    network = phema.load(path)
    assert torch.equal(network.state_dict()["unet.out_gain"], tensors["unet.out_gain"].float())


def test_what_is_left_when_the_snapshots_are_gone(house: House, tmp_path: Path) -> None:
    """Reconstructions from a basis equal those from snapshots. A rebuild restores finished ones from their files."""
    own = House(house.settings, house.api)
    path = f"/v1/runs/{own.run.name}"
    (before,) = own.reconstruct(sigma_rel=0.15)
    range_ = {"sigma_rel_min": 0.03, "sigma_rel_max": 0.2, "tolerance": 1e-4}
    assert own.api.post(f"{path}/bases", range_).status_code == 202
    own.work(JobKind.COMPACT)
    with own.api.catalog.transaction() as tx:
        gone = [s for s in tx.snapshots.list(own.run.id) if s.num_images < TIMES[-1]]
        tx.snapshots.retire([s.id for s in tx.snapshots.list(own.run.id)])
    for snapshot in gone:
        own.api.store.delete(snapshot.key)
    # The same question is answered by what is there, another one by the basis.
    again = own.api.post(f"{path}/reconstructions", {"sigma_rel": 0.15}).json()
    assert (again["job"], again["reconstructions"][0]["id"]) == (None, before["id"])
    (after,) = own.reconstruct(sigma_rel=0.15, dtype="float16")
    assert after["basis_id"] is not None
    assert {s["profile"]["kind"] for s in after["snapshots"]} == {"basis"}
    for name, value in load_tensors(own.file(before)).items():
        other = load_tensors(own.file(after))[name].float()
        # Half precision, the basis's own tolerance, and what either plan left unread.
        assert torch.linalg.norm(other - value) <= 3e-3 * torch.linalg.norm(value), name

    empty = Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    empty.upgrade()
    found = rebuild(empty, own.api.store)
    assert found.skipped == {}
    with empty.transaction(read_only=True) as tx:
        rows = {row.dtype: detail(tx, row.id) for row in tx.reconstructions.page(own.run.id).items}
        (basis_id,) = [basis.id for basis in tx.bases.finished(own.run.id)]
    empty.close()
    restored = rows["float32"]
    assert [s.id for s in restored.snapshots if s.num_images < TIMES[-1]] == [None] * (
        sum(s["num_images"] < TIMES[-1] for s in before["snapshots"])
    )
    assert [s.sha256 for s in restored.snapshots] == [s["sha256"] for s in before["snapshots"]]
    for name in ("coefficients", "predicted_error", "profile_error", "sha256", "label", "regularize"):
        assert getattr(restored, name) == before[name]
    assert rows["float16"].basis_id == basis_id != after["basis_id"], "bases have new ids"


def test_a_file_tells_the_time_it_was_asked_for_whatever_was_read(house: House) -> None:
    """The last snapshot need not be read: its coefficient is zero."""
    profile = Profile(kind="sampled", times=(TIMES[1], TIMES[-1]), weights=(1, 0))
    catalog = house.api.catalog
    with catalog.transaction() as tx:
        early = next(s for s in tx.snapshots.list(house.run.id) if s.num_images == TIMES[1])
        names = ("id", "num_images", "profile", "key", "size", "sha256", "dtype")
        plan = {"snapshots": [{name: getattr(early, name) for name in names}], "coefficients": [1.0]}
        row, _ = tx.reconstructions.find_or_create(
            run_id=house.run.id,
            num_images=TIMES[-1],
            profile=profile.model_dump(mode="json"),
            dtype="float32",
            plan=plan | {"profile_error": 0.1, "rounding_error": 0.0, "predicted_error": 0.1, "noise_gain": 1.0},
        )
        payload = {"reconstruction_ids": [row.id]}
        tx.jobs.enqueue(JobKind.RECONSTRUCT, payload=payload, content_key="early", run_id=house.run.id)
    house.work(JobKind.RECONSTRUCT)
    data = house.file({"id": row.id})
    metadata = parse_header(data, len(data), "file").metadata
    assert metadata is not None
    assert (metadata.num_images, metadata.profile) == (TIMES[-1], profile)


def test_a_rebuild_leaves_the_rows_of_jobs_alone(house: House) -> None:
    """A job's objects are its own, and are deleted if the job is cancelled."""
    own = House(house.settings, house.api)
    (item,) = own.reconstruct(sigma_rel=0.09)
    catalog = own.api.catalog
    with catalog.transaction() as tx:  # as before its end was written
        values = {"key": None, "size": None, "sha256": None}
        tx.reconstructions._session.execute(update(Reconstruction).filter_by(id=item["id"]).values(values))
    rebuilt = rebuild(catalog, own.api.store)
    assert (rebuilt.reconstructions, rebuilt.skipped) == (0, {})
    assert own.lab.reconstruction(item["id"]).key is None


def test_one_odd_file_does_not_end_a_rebuild(house: House, tmp_path: Path) -> None:
    own = House(house.settings, house.api)
    (item,) = own.reconstruct(sigma_rel=0.11)
    whole = own.file(item)
    metadata = parse_header(whole, len(whole), "whole").metadata
    assert metadata is not None
    assert metadata.lineage is not None
    kept = {name: value for name, value in metadata.lineage.items() if name != "regularize"}
    tensors = load_tensors(whole)
    for name, dtype, lineage in (("old", "float32", kept), ("odd", "float32", {"snapshots": [{}]})):
        data = encode(tensors, metadata.model_copy(update={"lineage": lineage, "dtype": dtype}))
        own.api.store.put(f"runs/{own.run.id}/reconstructions/{name}.safetensors", data)
    empty = Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    empty.upgrade()
    rebuilt = rebuild(empty, own.api.store)
    odd = f"runs/{own.run.id}/reconstructions/odd.safetensors"
    assert list(rebuilt.skipped) == [odd]
    assert "does not say what it was made of" in rebuilt.skipped[odd]
    with empty.transaction(read_only=True) as tx:
        solves = [row.plan["regularize"] for row in tx.reconstructions.page(own.run.id).items]
    empty.close()
    assert sorted(solves) == [False, True], "earlier versions did plain least squares"
