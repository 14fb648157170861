"""Retention and pins: forecasts, retired snapshots, and snapshots that every policy must keep."""

from __future__ import annotations

from typing import Any

import pytest

from phema.administration.rebuild import rebuild
from phema.services.api.external_runs import service as external
from phema.services.api.retention import service as retention
from phema.services.phema_worker.job_tasks import complete_job
from phema.services.phema_worker.retain import delete_objects, retain_task
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.catalog import Catalog, JobKind, JobState, Run
from phema.shared.catalog.repositories.snapshots import SnapshotRepository
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.retention import DECAYS, GRID
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.api import seed
from tests.api.http import Api, problem
from tests.api.test_external import uploaded
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/retention"
PINS = "/v1/runs/digits/pins"
TIMES = tuple(range(1600, 25_601, 1600))
THINNED = (1600, 12_800, 19_200, 22_400, 24_000, 25_600)


@pytest.fixture
def run(api: Api) -> Run:
    """A finished run with 32 snapshots."""
    created = seed.run(api.catalog)
    job = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
    seed.snapshots(api.catalog, api.store, created.id, TIMES)
    return created


def apply(api: Api, status: int = 202, **body: Any) -> Any:
    answer = api.post(PATH, {"dry_run": False, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def kept(api: Api) -> list[int]:
    """Times, each as often as it has snapshots."""
    return [item["num_images"] for item in api.all("/v1/runs/digits/snapshots")]


def delete(api: Api) -> None:
    """Do the oldest queued `retain` job as a worker would."""
    job = seed.claim(api.catalog, JobKind.RETAIN)
    with api.catalog.transaction(read_only=True) as tx:
        task = retain_task(tx, job)
    assert task is not None
    delete_objects(api.store, task, TaskProgress())
    with api.catalog.transaction() as tx:
        complete_job(tx, job, task, Done((), 0.0))


def test_a_dry_run_says_what_would_be_and_does_nothing(api: Api, run: Run) -> None:
    answer = api.post(PATH, {"policy": "thin"})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["frees"], said["keeps"]) == ({"snapshots": 20, "bytes": 1280}, {"snapshots": 12, "bytes": 768})
    assert (said["pinned"], said["in_use"], said["times_lost"]) == (0, 0, 10)
    assert (said["dry_run"], said["refused"], said["job"]) == (True, None, None)
    assert [line["num_images"] for line in said["forecasts"]] == [25_600, 12_800, 6400]
    latest = {line["sigma_rel"]: line for line in said["forecasts"][0]["errors"]}
    assert tuple(latest) == GRID
    stored = [StoredSnapshot(f"{t}-{s}", t, Profile.power(s), "", 64, "") for t in TIMES for s in seed.STORED]
    for name, snapshots in (("before", stored), ("after", [s for s in stored if s.num_images in THINNED])):
        planned = plan(snapshots, [Profile.power(s) for s in GRID], update_images=run.config["batch_size"])
        for output in planned.outputs:
            line = latest[float(output.profile.sigma_rel or 0)]
            assert 1 - 1e-6 <= output.errors.predicted_error / line[name] <= 1.02
    decays = [[(d["shape"], d["length_images"]) for d in forecast["decays"]] for forecast in said["forecasts"]]
    assert decays == [[(shape, length) for shape in DECAYS] for length in (5120, 2560, 1280)]
    wanted = [Profile(kind="lr_decay", shape=shape, length_images=5120) for shape in DECAYS]
    planned = plan(stored, wanted, update_images=run.config["batch_size"])
    for output, line in zip(planned.outputs, said["forecasts"][0]["decays"], strict=True):
        assert 1 - 1e-6 <= output.errors.predicted_error / line["before"] <= 1.02
        assert line["before"] < line["after"]
    assert {line["after"] for line in said["forecasts"][2]["errors"] + said["forecasts"][2]["decays"]} == {None}
    assert len(kept(api)) == 32
    with api.catalog.transaction() as tx:
        assert tx.jobs.list(kind=JobKind.RETAIN).items == []


def test_what_is_given_up_is_seen_no_more_and_then_deleted(api: Api, run: Run) -> None:
    gone = next(i for i in api.all("/v1/runs/digits/snapshots") if i["num_images"] == 3200)
    said = apply(api, policy="thin")
    assert (said["frees"]["snapshots"], said["job"]["kind"], said["job"]["state"]) == (20, "retain", "queued")
    assert kept(api) == [time for time in THINNED for _ in seed.STORED]
    problem(api.get(f"/v1/snapshots/{gone['id']}/download"), 404, "not-found")
    planned = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.15, "plan_only": True}).json()
    assert {s["num_images"] for s in planned["snapshots"]} <= set(THINNED)
    again = apply(api, policy="thin")
    assert again["job"]["id"] == said["job"]["id"], "what is not deleted yet is the same job's"
    delete(api)
    assert apply(api, status=200, policy="thin")["job"] is None
    assert len(list(api.store.list(f"runs/{run.id}/snapshots/"))) == 12


def test_what_a_cancelled_job_has_left_is_deleted_by_the_next(api: Api, run: Run) -> None:
    first = apply(api, policy="thin")["job"]
    assert api.post(f"/v1/jobs/{first['id']}/cancel").json()["state"] == "cancelled"
    assert len(kept(api)) == 12, "retired snapshots stay retired"
    second = apply(api, policy="all")
    assert (second["frees"]["snapshots"], second["job"]["id"] != first["id"]) == (0, True)
    delete(api)
    with api.catalog.transaction() as tx:
        assert tx.snapshots.retired(run.id) == []


@only("sqlite")
def test_keeping_the_latest_is_refused_unless_forced(api: Api, run: Run) -> None:
    body = {"policy": "latest", "keep": 4}
    said = api.post(PATH, body).json()
    last = said["forecasts"][0]["errors"][-1]
    assert f"of sigma_rel 0.25 from {last['before']:.1e} to {last['after']:.1e}" in said["refused"]
    document = problem(api.post(PATH, {**body, "dry_run": False}), 409, "retention-refused")
    assert document["detail"] == said["refused"]
    assert len(kept(api)) == 32
    assert api.post(PATH, {**body, "force": True}).json()["refused"] is None
    apply(api, **body, force=True)
    assert kept(api) == [time for time in TIMES[-4:] for _ in seed.STORED]


def test_pinned_snapshots_stay(api: Api, run: Run) -> None:
    answer = api.post(PINS, {"num_images": 3200})
    assert answer.status_code == 200
    assert [(s["num_images"], s["pinned"]) for s in answer.json()["snapshots"]] == [(3200, True), (3200, True)]
    one = answer.json()["snapshots"][0]["id"]
    assert api.post(PINS, {"snapshot_ids": [one], "pinned": False}).json()["snapshots"][0]["pinned"] is False
    said = apply(api, policy="thin")
    assert (said["pinned"], said["frees"]["snapshots"]) == (1, 19)
    assert kept(api).count(3200) == 1


@only("sqlite")
def test_the_checkpoint_of_a_pinned_time_stays(api: Api, run: Run) -> None:
    checkpoints(api.catalog, run.id, 3200, 6400, 9600, 12_800)

    def surplus() -> list[int]:
        with api.catalog.transaction(read_only=True) as tx:
            return [row.num_images for row in tx.checkpoints.surplus(run.id, 2)]

    assert surplus() == [3200, 6400]
    api.post(PINS, {"num_images": 3200})
    assert surplus() == [6400]
    api.post(PINS, {"num_images": 3200, "pinned": False})
    assert surplus() == [3200, 6400]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "give either snapshot_ids or num_images"),
        ({"num_images": 3200, "snapshot_ids": ["a"]}, "give either snapshot_ids or num_images"),
        ({"num_images": 3201}, "num_images 3201 has no snapshot in run digits"),
        ({"snapshot_ids": ["snap-none"]}, "snapshot_ids snap-none is no snapshot of run digits"),
    ],
)
@only("sqlite")
def test_only_snapshots_can_be_pinned(api: Api, run: Run, body: dict[str, Any], sentence: str) -> None:
    assert sentence in problem(api.post(PINS, body), 422, "invalid")["detail"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "policy is missing"),
        ({"policy": "oldest"}, "policy"),
        ({"policy": "latest"}, "policy 'latest' needs keep"),
        ({"policy": "thin", "keep": 3}, "keep belongs to policy 'latest'; policy 'thin' does not have it"),
        ({"policy": "thin", "coarsest": 3}, "coarsest 3 must be one of 2, 4, 8, 16, 32, 64"),
        ({"policy": "basis"}, "policy basis needs a finished basis and the run has none"),
        ({"policy": "all", "at": [5]}, "at 5 has no snapshot; the nearest time is 1600"),
    ],
)
@only("sqlite")
def test_mistakes_get_a_sentence(api: Api, run: Run, body: dict[str, Any], sentence: str) -> None:
    assert sentence in problem(api.post(PATH, body), 422, "invalid")["detail"]


@pytest.mark.parametrize("path", [PATH, PINS])
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, path: str) -> None:
    problem(guarded.anonymous("POST", path), 401, "unauthorized")


@only("sqlite")
def test_a_finished_basis_stands_for_all_snapshots_but_its_own(api: Api, run: Run) -> None:
    api.post("/v1/runs/digits/bases", {"num_images": 22_400})
    assert "needs a finished basis" in problem(api.post(PATH, {"policy": "basis"}), 422, "invalid")["detail"]
    seed.finish_basis(api.catalog, api.store)
    wrong = problem(api.post(PATH, {"policy": "basis", "times": [1600]}), 422, "invalid")
    assert wrong["detail"] == "times 1600 has no finished basis; those that have: 22400"
    said = apply(api, policy="basis", at=[22_400])
    assert kept(api) == [time for time in TIMES if time >= 22_400 for _ in seed.STORED]
    (line,) = said["forecasts"]
    for error in line["errors"][1:]:
        assert error["after"] < error["before"] + 2e-4
    delete(api)
    assert api.post("/v1/runs/digits/bases", {"num_images": 22_400}).status_code == 200, "it cannot be made again"


def test_what_a_job_reads_stays_until_it_has_ended(api: Api, run: Run) -> None:
    wanted = {"sigma_rel": 0.17, "num_images": 9600}
    accepted = api.post("/v1/runs/digits/reconstructions", wanted).json()
    with api.catalog.transaction() as tx:
        (row,) = tx.reconstructions.page(run.id).items
    read = {s["id"] for s in row.plan["snapshots"]}
    said = apply(api, policy="thin")
    assert said["in_use"] > 0
    assert read <= {item["id"] for item in api.all("/v1/runs/digits/snapshots")}
    seed.finish_reconstructions(api.catalog, api.store)
    assert apply(api, policy="thin")["in_use"] == 0
    assert kept(api) == [time for time in THINNED for _ in seed.STORED]
    delete(api)
    done = api.get(f"/v1/reconstructions/{accepted['reconstructions'][0]['id']}").json()
    assert (done["state"], {s["id"] for s in done["snapshots"]}) == ("succeeded", read), "its lineage stays"


@only("sqlite")
def test_what_a_queued_compaction_reads_stays(api: Api, run: Run) -> None:
    api.post("/v1/runs/digits/bases", {})
    said = apply(api, status=200, policy="thin")
    assert (said["in_use"], said["frees"]["snapshots"], said["job"]) == (20, 0, None)


def checkpoints(catalog: Catalog, run_id: str, *times: int) -> None:
    with catalog.transaction() as tx:
        for time in times:
            tx.checkpoints.add(run_id=run_id, num_images=time, key=f"c/{time}", size=1, sha256="0" * 64)


@only("sqlite")
def test_what_training_may_write_again_stays(api: Api) -> None:
    created = seed.run(api.catalog)
    seed.snapshots(api.catalog, api.store, created.id, TIMES)
    said = api.post(PATH, {"policy": "thin"}).json()
    assert (said["in_use"], said["frees"]["snapshots"]) == (20, 0), "without a checkpoint it starts again from 0"
    checkpoints(api.catalog, created.id, 6400, 12_800)
    said = apply(api, policy="thin")
    assert (said["in_use"], said["frees"]["snapshots"]) == (14, 6), "the checkpoint before the last is good enough"
    assert set(TIMES) - set(kept(api)) == {3200, 4800, 6400}


@only("sqlite")
def test_what_arrives_while_deleting_is_not_touched(api: Api, run: Run) -> None:
    apply(api, policy="thin")
    job = seed.claim(api.catalog, JobKind.RETAIN)
    seed.snapshots(api.catalog, api.store, run.id, [27_200])
    with api.catalog.transaction() as tx:
        rows = tx.snapshots.retired(run.id)
        assert {row.num_images for row in rows} == set(TIMES) - set(THINNED)
        tx.snapshots.remove(row.id for row in tx.snapshots.list(run.id))
        tx.leases.succeed(job.id, job.fence, {})
    assert kept(api)[-2:] == [27_200, 27_200]


def test_the_decision_is_repeated_under_the_lock(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are added and pinned between forecast and deletion; the deletion does not read probes again."""
    forecast = retention.forecast

    def meanwhile(*arguments: Any) -> Any:
        found = forecast(*arguments)
        seed.snapshots(api.catalog, api.store, run.id, [27_200])
        api.post(PINS, {"num_images": 3200})
        monkeypatch.delattr(SnapshotRepository, "probes")
        return found

    monkeypatch.setattr(retention, "forecast", meanwhile)
    said = apply(api, policy="thin")
    assert said["pinned"] == 2
    assert kept(api) == [time for time in (1600, 3200, *THINNED[1:], 27_200) for _ in seed.STORED]


@only("sqlite")
def test_a_repeated_request_gets_its_answer(api: Api, run: Run) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"policy": "thin", "dry_run": False}
    first = api.post(PATH, body, headers=headers)
    assert api.post(PATH, body, headers=headers).json() == first.json()
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.RETAIN, state=JobState.QUEUED).items) == 1


@only("sqlite")
def test_a_snapshot_from_outside_is_registered_only_with_its_object(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the object and the new row, another script registers it and retention deletes it."""
    mine = api.post("/v1/runs/external", {"name": "mine", "config": {}}).json()
    body = uploaded(api, mine)
    check = external.check_object

    def checked_too_early(*arguments: Any) -> None:
        check(*arguments)
        monkeypatch.setattr(external, "check_object", check)
        assert api.post("/v1/runs/mine/snapshots", body).status_code == 201
        with api.catalog.transaction() as tx:
            ids = [row.id for row in tx.snapshots.list(mine["id"])]
            tx.snapshots.retire(ids)
            tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key="retain:mine", run_id=mine["id"])
        api.store.delete(body["key"])
        with api.catalog.transaction() as tx:
            assert tx.snapshots.remove(ids) == 1

    monkeypatch.setattr(external, "check_object", checked_too_early)
    answer = api.post("/v1/runs/mine/snapshots", body)
    assert "is not in the service's store" in problem(answer, 422, "invalid")["detail"]
    assert api.all("/v1/runs/mine/snapshots") == []


@only("sqlite")
def test_the_store_is_never_asked_while_others_wait_for_the_catalog(
    api: Api, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may take a minute to answer, and SQLite has one lock for all writers."""
    writes_elsewhere(monkeypatch, catalog_url)
    mine = api.post("/v1/runs/external", {"name": "mine", "config": {}}).json()
    bodies = [uploaded(api, mine, num_images) for num_images in (640, 1280)]
    assert api.post("/v1/runs/mine/snapshots", bodies[0]).status_code == 201
    # The second one is in the store and has no row.
    assert rebuild(api.catalog, api.store).snapshots == 1


def writes_elsewhere(monkeypatch: pytest.MonkeyPatch, catalog_url: str) -> None:
    """Let each call of a store write to the catalog through a connection of its own, which fails behind a writer."""
    impatient = Catalog(catalog_url, answer_seconds=0.1)

    def wrap(method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            with impatient.transaction() as tx:
                tx.jobs.list(limit=1)
            return method(*arguments, **options)

        return call

    for name in ("head", "get", "put", "peek", "read_range", "read_into", "list", "delete"):
        monkeypatch.setattr(LocalStore, name, wrap(getattr(LocalStore, name)))


@only("sqlite")
def test_a_snapshot_that_is_being_deleted_cannot_be_registered_again_yet(api: Api) -> None:
    mine = api.post("/v1/runs/external", {"name": "mine", "config": {}}).json()
    body = uploaded(api, mine)
    path = "/v1/runs/mine/snapshots"
    assert api.post(path, body).status_code == 201
    with api.catalog.transaction() as tx:
        tx.snapshots.retire([row.id for row in tx.snapshots.list(mine["id"])])
        tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key="retain:mine", run_id=mine["id"])
    answer = problem(api.post(path, body), 409, "being-deleted")
    assert "of 640 images and profile 0.05 is being deleted by retention; try again" in answer["detail"]
    delete(api)
    again = uploaded(api, mine)
    assert api.post(path, again).status_code == 201
    assert len(api.all(path)) == 1
