"""The bucket alone is enough to rebuild the catalog."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from phema.administration.rebuild import rebuild
from phema.services.trainer.attempt import attempt_from
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training.tracked_averages import profile_of
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.catalog.models import Snapshot
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.files.run_renames import RunRename
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import rename_key
from phema.shared.snapshots.stores.opening import open_store
from tests.fixtures.catalog import only

CONFIG = resolve(
    "digits-tiny",
    {
        "total_images": 96,
        "batch_size": 16,
        "snapshot_every": 32,
        "checkpoint_every": 32,
        "status_every": 32,
        "ema_half_life_images": 1000,
        "ema_rampup_ratio": 0.05,
        "network": {"channel_mult": [1], "attn_resolutions": []},
    },
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> tuple[Path, ObjectStore]:
    """An SQLite catalog with one finished run, and its store."""
    folder = tmp_path_factory.mktemp("trained")
    database, store = folder / "catalog.db", open_store((folder / "store").as_uri())
    shutil.copy(sqlite_template, database)
    with closing(Catalog(f"sqlite:///{database}")) as catalog:
        train_locally(CONFIG, catalog, store, name="digits")
    return database, store


@pytest.fixture
def lost(database: str, catalog_url: str, store: ObjectStore, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    """A catalog with one finished run in `store`, about to be lost; on SQLite a copy of one."""
    if database == "sqlite":
        file, objects = request.getfixturevalue("trained")
        shutil.copy(file, catalog_url.removeprefix("sqlite:///"))
        for info in objects.list():
            store.put(info.key, objects.get(info.key))
    with closing(Catalog(catalog_url)) as catalog:
        if database == "postgres":
            train_locally(CONFIG, catalog, store, name="digits")
        yield catalog


@pytest.fixture
def empty(tmp_path: Path, sqlite_template: Path) -> Iterator[Catalog]:
    shutil.copy(sqlite_template, tmp_path / "rebuilt.db")
    with closing(Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")) as catalog:
        yield catalog


def test_everything_but_figures_comes_back(
    lost: Catalog, empty: Catalog, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    read: Counter[str] = Counter()
    read_into = store.read_into

    def counted(key: str, start: int, buffer: memoryview) -> None:
        read[key] += buffer.nbytes
        read_into(key, start, buffer)

    monkeypatch.setattr(store, "read_into", counted)
    rebuilt = rebuild(empty, store, lambda done, total: seen.append((done, total)))
    assert (rebuilt.runs, rebuilt.snapshots, rebuilt.checkpoints, rebuilt.skipped) == (1, 9, 2, {})
    assert seen[-1] == (12, 12)
    with lost.transaction() as before, empty.transaction() as after:
        old, new = before.runs.get("digits"), after.runs.get("digits")
        assert (new.id, new.state, new.config_hash, new.num_images) == (old.id, "succeeded", old.config_hash, 96)
        assert RunConfig.model_validate(new.config) == CONFIG
        rows = [
            [(s.num_images, profile_of(s), s.dtype, s.key, s.size, s.sha256) for s in tx.snapshots.list(new.id)]
            for tx in (before, after)
        ]
        assert rows[0] == rows[1]
        assert {key: read[key] for *_, key, _, _ in rows[0]} == {key: size for *_, key, size, _ in rows[0]}, "read once"
        latest = after.checkpoints.latest(new.id)
        assert latest is not None
        assert latest.num_images == 96


@only("sqlite")
def test_a_second_rebuild_changes_nothing(lost: Catalog, store: ObjectStore) -> None:
    rebuilt = rebuild(lost, store)
    assert (rebuilt.runs, rebuilt.snapshots, rebuilt.checkpoints, rebuilt.reconstructions) == (0, 0, 0, 0)


@only("sqlite")
def test_snapshots_of_an_older_phema_learn_how_their_weights_move(
    lost: Catalog, empty: Catalog, store: ObjectStore
) -> None:
    with lost.transaction() as tx:
        run_id = tx.runs.get("digits").id
        probes = tx.snapshots.probes(run_id)
        tx.snapshots._session.execute(update(Snapshot).values(probe=None))
    rebuild(lost, store)
    rebuild(empty, store)
    with lost.transaction() as tx, empty.transaction() as anew:
        assert tx.snapshots.probes(run_id) == probes
        assert len(probes) == 9
        assert sorted(anew.snapshots.probes(run_id).values()) == sorted(probes.values())


@only("sqlite")
def test_a_damaged_snapshot_gets_no_row(lost: Catalog, empty: Catalog, store: ObjectStore) -> None:
    with lost.transaction() as tx:
        victim = tx.snapshots.list(tx.runs.get("digits").id)[0]
    data = bytearray(store.get(victim.key))
    data[-1] ^= 1
    store.delete(victim.key)
    store.put(victim.key, bytes(data))
    rebuilt = rebuild(empty, store)
    assert rebuilt.snapshots == 8
    assert list(rebuilt.skipped) == [victim.key]
    assert victim.sha256 in rebuilt.skipped[victim.key]


def test_an_unfinished_run_comes_back_and_resumes_to_the_same_snapshots(
    lost: Catalog, empty: Catalog, store: ObjectStore
) -> None:
    with lost.transaction() as tx:
        run = tx.runs.get("digits")
        wanted = [(s.num_images, s.sigma_rel, s.sha256) for s in tx.snapshots.list(run.id)]
        # As if the machine had died after 64 images.
        for late in [s for s in tx.snapshots.list(run.id) if s.num_images > 64]:
            store.delete(late.key)
        store.delete(tx.checkpoints.latest(run.id).key)  # type: ignore[union-attr]
    rebuild(empty, store)
    with empty.transaction() as tx:
        found = tx.runs.get("digits")
        assert (found.state, found.num_images) == (JobState.FAILED, 64)
        assert tx.run_control.resume(found.id).state is JobState.QUEUED
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=600)
    assert job is not None
    finished = train_locally(CONFIG, empty, store, job)
    assert finished.state is JobState.SUCCEEDED
    with empty.transaction() as tx:
        assert [(s.num_images, s.sigma_rel, s.sha256) for s in tx.snapshots.list(run.id)] == wanted


@only("sqlite")
def test_a_cancelled_run_resumes(catalog: Catalog, store: ObjectStore) -> None:
    attempt = claim_locally(CONFIG, catalog, name="digits")
    with catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, catalog, store)
    with catalog.transaction() as tx:
        tx.leases.cancelled(attempt.job_id, attempt.fence)
        again = tx.run_control.resume(attempt.run_id)
        assert (again.state, again.job_id == attempt.job_id) == (JobState.QUEUED, False)
        assert tx.run_control.resume(attempt.run_id).job_id == again.job_id


def test_a_renamed_run_trains_on_and_comes_back_with_its_latest_name(
    catalog: Catalog, empty: Catalog, store: ObjectStore
) -> None:
    attempt = claim_locally(CONFIG, catalog, name="before")
    train_attempt(attempt, catalog, store)
    for number, name in enumerate(("between", "after"), 1):
        record = RunRename(run_id=attempt.run_id, name=name, renamed_at=float(number))
        store.put(rename_key(attempt.run_id, number, "aa"), record.encode())
        with catalog.transaction() as tx:
            tx.runs.rename(attempt.run_id, name)
    with catalog.transaction() as tx:
        renamed = attempt_from(tx.runs.get("after"), tx.jobs.get(attempt.job_id))
    train_attempt(renamed, catalog, store)  # meets the run.json with the first name
    rebuilt = rebuild(empty, store)
    assert not rebuilt.skipped
    with empty.transaction() as tx:
        assert tx.runs.get("after").id == attempt.run_id
