"""Migrations create exactly the tables of the models, and a schema of another version is reported."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, String, Table, create_engine, insert, inspect, select, text

from benchmarks.large_catalog import WELL_KEPT, Size, fill
from phema.shared.catalog import Catalog, JobKind, JobState, SchemaOutOfDate, StudyKind, schema_version
from phema.shared.catalog.column_types import Figures
from phema.shared.catalog.content_keys import canonical, content_key, profile_identity
from phema.shared.catalog.engine import parse_url
from phema.shared.catalog.models import Base
from phema.shared.catalog.new_migration import draft
from phema.shared.catalog.schema_version import migration_config, wanted_revision
from tests.catalog.conftest import ask
from tests.fixtures.catalog import only


def test_models_and_migrations_agree(empty_url: str) -> None:
    catalog = Catalog(empty_url)
    catalog.upgrade()
    catalog.close()
    engine = create_engine(parse_url(empty_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        # Autogeneration sees neither of these.
        tables = inspect(connection)
        for table in Base.metadata.sorted_tables:
            modelled = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
            assert {check["name"] for check in tables.get_check_constraints(table.name)} == modelled
        (live,) = (index for index in tables.get_indexes("jobs") if index["name"] == "uq_jobs_content_key_live")
        assert live["unique"]
        condition = str(next(v for k, v in live["dialect_options"].items() if k.endswith("_where")))
        assert all(f"'{state}'" in condition for state in ("queued", "running", "paused", "succeeded"))
        assert "'failed'" not in condition
        assert "'cancelled'" not in condition
    engine.dispose()


def test_upgrading_again_keeps_what_is_there(empty_url: str) -> None:
    catalog = Catalog(empty_url)
    catalog.upgrade()
    job = ask(catalog)
    catalog.upgrade()
    catalog.check()
    with catalog.transaction() as tx:
        assert tx.jobs.get(job.id).id == job.id
    catalog.close()


def test_services_that_start_together_upgrade_once(empty_url: str) -> None:
    services = 4
    start = threading.Barrier(services)

    def serve(_: int) -> None:
        catalog = Catalog(empty_url)
        start.wait()
        catalog.upgrade()
        catalog.check()
        catalog.close()

    with ThreadPoolExecutor(services) as pool:
        list(pool.map(serve, range(services)))


INSERT_RUN = """
INSERT INTO runs (seq, id, name, config, config_hash, total_images, num_images, job_id, created_at)
VALUES (1, 'r', 'r', '{}', 'h', 1, 1, 'j', 1.0)
"""


OLD_PLAN = {
    "snapshots": [{"id": "s", "num_images": 2**31, "sigma_rel": 1 / 30, "key": "k", "size": 2**40, "sha256": "h"}],
    "coefficients": [1.0],
    "predicted_error": 1e-4,
    "noise_gain": 1.0,
}
INSERT_RECONSTRUCTION = """
INSERT INTO reconstructions (seq, id, run_id, num_images, sigma_rel, gamma, dtype, content_key, plan, created_at)
VALUES (1, 'rec', 'r', 2147483648, 0.05, 16.0, 'float32', 'c', :plan, 1.0)
"""


INSERT_SNAPSHOT = """
INSERT INTO snapshots (id, run_id, num_images, profile, profile_key, dtype, key, size, sha256, pinned, created_at)
VALUES (:id, 'r', 5, :profile, :key, 'float16', 'k', 1, 'h', FALSE, :at)
"""
INSERT_NEW_RECONSTRUCTION = """
INSERT INTO reconstructions (seq, id, run_id, num_images, profile, dtype, content_key, plan, created_at)
VALUES (:seq, :id, 'r', 5, :profile, 'float32', :key, :plan, 1.0)
"""


FIRST_ROWS: dict[str, dict[str, Any]] = {
    "runs": {
        "seq": 1,
        "id": "run-1",
        "name": "first",
        "config": {},
        "config_hash": "h",
        "job_id": "job-1",
        "total_images": 2**32,
        "num_images": 2**31,
    },
    "jobs": {
        "seq": 1,
        "id": "job-1",
        "kind": "train",
        "state": "running",
        "priority": 30,
        "run_id": "run-1",
        "payload": {},
        "content_key": "train:run-1",
        "fence": 1,
        "attempts": 1,
        "max_attempts": 5,
        "lease_owner": "w",
        "lease_expires_at": 1e12,
        "not_before": 0.0,
        "cancel_requested": False,
        "progress": 0.5,
    },
    "attempts": {"job_id": "job-1", "number": 1, "submission_id": "job-1-a1", "owner": "w", "started_at": 1.5},
    "snapshots": {
        "id": "s",
        "run_id": "run-1",
        "num_images": 2**31,
        "profile_kind": "power",
        "sigma_rel": 0.05,
        "gamma": 16.0,
        "dtype": "float16",
        "key": "k",
        "size": 2**40,
        "sha256": "h",
    },
    "checkpoints": {"id": "ckpt-1", "run_id": "run-1", "num_images": 2**31, "key": "k", "size": 2**40, "sha256": "h"},
    "history": {"run_id": "run-1", "num_images": 2**31, "values": {"loss": 0.5}},
    "reconstructions": {
        "seq": 1,
        "id": "rec-1",
        "run_id": "run-1",
        "num_images": 2**31,
        "sigma_rel": 0.05,
        "gamma": 16.0,
        "dtype": "float32",
        "content_key": "c",
        "plan": OLD_PLAN,
        "job_id": "job-1",
    },
    "evaluations": {
        "seq": 1,
        "id": "eval-1",
        "run_id": "run-1",
        "reconstruction_id": "rec-1",
        "recipe": {},
        "content_key": "c",
        "figures": {"frechet": 0.5},
    },
    "idempotency": {"key": "key", "request_hash": "h", "status": 201, "body": {"id": "run-1"}},
    "targets": {"address": "127.0.0.1:9", "kind": "worker", "labels": {}, "seen_at": 1.5},
}
"""A row of every table of the first schema; `created_at` is added where the table has it."""


@contextmanager
def at_revision(empty_url: str, revision: str) -> Iterator[Connection]:
    """A transaction on a database that has this schema."""
    url = parse_url(empty_url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        Path(url.database).parent.mkdir()
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            command.upgrade(migration_config(connection), revision)
            yield connection
    finally:
        engine.dispose()


def reflected(connection: Connection) -> dict[str, Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return dict(metadata.tables)


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in the order of its key."""
    return {
        name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
        for name, table in reflected(connection).items()
        if name != "alembic_version"
    }


def revisions() -> list[str]:
    """All revisions, the oldest first."""
    scripts = ScriptDirectory.from_config(migration_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def stamp(url: str, revision: str) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()


def test_a_schema_of_a_newer_phema(catalog: Catalog, catalog_url: str) -> None:
    stamp(catalog_url, "9999")
    with pytest.raises(SchemaOutOfDate, match=r"was upgraded by a newer phema \(schema 9999\): use that version"):
        catalog.check()
    with pytest.raises(SchemaOutOfDate, match="newer phema"):
        catalog.upgrade()


def test_a_schema_of_an_older_phema(catalog: Catalog, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the code need a revision that the database lacks: the first one after it."""
    newest = wanted_revision()
    monkeypatch.setattr("phema.shared.catalog.schema_version.wanted_revision", lambda: "9999")
    with pytest.raises(SchemaOutOfDate, match=f"has schema {newest}, this phema needs 9999: run `phema db upgrade`"):
        catalog.check()


def test_snapshots_of_the_first_schema_stay_as_they_were(empty_url: str) -> None:
    row = {"id": "s", "run_id": "r", "num_images": 2**31, "profile_kind": "power", "sigma_rel": 1 / 30, "gamma": 27.1}
    rest = {"dtype": "float16", "key": "k", "size": 2**40, "sha256": "h", "created_at": 1.5}
    with at_revision(empty_url, "0001") as connection:
        connection.execute(text(INSERT_RUN))
        names = ", ".join([*row, *rest])
        values = ", ".join(f":{name}" for name in [*row, *rest])
        connection.execute(text(f"INSERT INTO snapshots ({names}) VALUES ({values})"), {**row, **rest})
        connection.execute(text(INSERT_RECONSTRUCTION), {"plan": json.dumps(OLD_PLAN)})
    engine = create_engine(parse_url(empty_url))
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "head")
        (found,) = connection.execute(text("SELECT * FROM snapshots")).mappings()
        plan = connection.scalar(text("SELECT plan FROM reconstructions"))
    profile = {"kind": "power", "sigma_rel": row["sigma_rel"], "gamma": row["gamma"]}
    kept = {name: row[name] for name in ("id", "run_id", "num_images", "sigma_rel")}
    new = {"profile_key": canonical(profile_identity(profile)), "probe": None, "pinned": False, "retired_at": None}
    stored = found["profile"]
    assert (json.loads(stored) if isinstance(stored, str) else stored) == profile
    assert {name: value for name, value in found.items() if name != "profile"} == {**kept, **rest, **new}
    plan = json.loads(plan) if isinstance(plan, str) else plan
    assert plan["regularize"] is False, "they were plain least squares"
    assert (plan["snapshots"][0]["profile"], plan["profile_error"], plan["rounding_error"]) == (profile, 1e-4, None)
    engine.dispose()


def test_the_list_of_deletions_can_be_taken_back(empty_url: str) -> None:
    """Down to the schema before it and up again: the rows of other tables stay."""
    catalog = Catalog(empty_url)
    catalog.upgrade()
    job = ask(catalog)
    with catalog.transaction() as tx:
        tx.deletions.expect(job.id, ["key"])
    catalog.close()
    engine = create_engine(parse_url(empty_url))
    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "0005")
        assert "deletions" not in inspect(connection).get_table_names()
        assert "trouble" not in {column["name"] for column in inspect(connection).get_columns("jobs")}
    engine.dispose()
    catalog.upgrade()
    with catalog.transaction() as tx:
        assert tx.jobs.get(job.id).state is JobState.QUEUED
        assert tx.deletions.keys() == set()
    catalog.close()


def test_keys_lose_gamma_and_get_it_back(empty_url: str) -> None:
    """Rows of two machines, whose gammas differ in the last digit, and a content key of another form."""
    path = parse_url(empty_url)
    if path.get_backend_name() == "sqlite":
        assert path.database is not None
        Path(path.database).parent.mkdir()
    engine = create_engine(path)
    here, there = ({"kind": "power", "sigma_rel": 0.05, "gamma": gamma} for gamma in (16.9, math.nextafter(16.9, 17)))
    raw = {"kind": "raw"}
    nested = {"kind": "per_tensor", "default": here, "tensors": [{"pattern": "*", "profile": there}]}
    plan = {"regularize": False, "snapshots": [{"sha256": "h"}], "coefficients": [0.1]}
    plan |= {"tensors": [{"pattern": "*", "coefficients": [1.0]}]}

    def question(profile: object) -> dict[str, object]:
        row = {"run_id": "r", "num_images": 5, "profile": profile, "dtype": "float32", "regularize": False}
        return row | {"snapshots": ["h"], "coefficients": [0.1], "tensors": [["*", [1.0]]]}

    def keys(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
        snapshots = connection.execute(text("SELECT id, profile_key FROM snapshots")).all()
        reconstructions = connection.execute(text("SELECT id, content_key FROM reconstructions")).all()
        return {row[0]: row[1] for row in snapshots}, {row[0]: row[1] for row in reconstructions}

    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "0004")
        connection.execute(text(INSERT_RUN.replace("created_at)", "origin, created_at)").replace("1.0)", "'x', 1.0)")))
        for number, profile in enumerate((here, there, raw)):
            values = {"id": f"s{number}", "profile": json.dumps(profile), "key": canonical(profile), "at": number}
            connection.execute(text(INSERT_SNAPSHOT), values)
        for number, key in enumerate((content_key("reconstruction", question(nested)), "old")):
            values = {"id": f"rec{number}", "profile": json.dumps(nested), "key": key, "plan": json.dumps(plan)}
            connection.execute(text(INSERT_NEW_RECONSTRUCTION), {"seq": number, **values})
        before = keys(connection)
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "head")
        short = canonical(profile_identity(here))
        assert short == '{"kind":"power","sigma_rel":0.05}'
        new = content_key("reconstruction", question(profile_identity(nested)))
        assert keys(connection) == (
            {"s0": short, "s1": canonical(there), "s2": canonical(raw)},
            {"rec0": new, "rec1": "old"},
        )
    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "0004")
        assert keys(connection) == before
        command.upgrade(migration_config(connection), "head")
    engine.dispose()


def test_everything_of_the_first_schema_can_be_read_after_the_upgrade(empty_url: str) -> None:
    with at_revision(empty_url, "0001") as connection:
        tables = reflected(connection)
        assert set(tables) == {*FIRST_ROWS, "alembic_version"}
        for name, row in FIRST_ROWS.items():
            common = {"created_at": 1.5} if "created_at" in tables[name].c else {}
            connection.execute(insert(tables[name]), {**common, **row})
    catalog = Catalog(empty_url)
    catalog.upgrade()
    with catalog.transaction() as tx:
        run = tx.runs.get("first")
        assert (run.id, run.origin, run.state, run.created_at) == ("run-1", "trained", "running", 1.5)
        assert tx.jobs.get("job-1").request_id is None
        assert [attempt.owner for attempt in tx.jobs.attempts("job-1")] == ["w"]
        assert [snapshot.sigma_rel for snapshot in tx.snapshots.list("run-1")] == [0.05]
        assert tx.evaluations.get("eval-1").reconstruction.id == "rec-1"
        checkpoint = tx.checkpoints.latest("run-1")
        assert checkpoint is not None
        assert checkpoint.num_images == 2**31
        assert [point.values for point in tx.history.list("run-1").items] == [{"loss": 0.5}]
        assert [target.address for target in tx.scrape_targets.live(1e12)] == ["127.0.0.1:9"]
        kept = tx.idempotency.get("key")
        assert kept is not None
        assert kept.body == {"id": "run-1"}
        assert tx.leases.heartbeat("job-1", 1, lease_seconds=60) is False, "the attempt still holds its job"
    catalog.close()


def test_one_step_back_and_forward_keeps_every_row(empty_url: str) -> None:
    """The newest migration, whichever it is."""
    catalog = Catalog(empty_url)
    catalog.upgrade()
    fill(empty_url, Size().divided(1000))
    with catalog.transaction() as tx:
        tx.checkpoints.add(run_id=WELL_KEPT, num_images=1, key="k", size=1, sha256="h")
        tx.idempotency.save("key", "h", 201, {"id": "r"})
        tx.scrape_targets.register("worker", "127.0.0.1:9")
        tx.deletions.expect(tx.jobs.list(limit=1).items[0].id, ["a/key"])
        of_run = {"run_id": WELL_KEPT, "request": {}}
        weights = tx.reconstructions.page(limit=1).items[0]
        asked = {"num_images": 1, "profile": {"kind": "raw"}, "solve": {}, "plan": {}}
        tx.previews.find_or_create(**of_run, **asked)
        tx.samples.find_or_create(**of_run, reconstruction_id=weights.id)
        tx.sample_parts.find_or_create_all(WELL_KEPT, "d", [("part:1", {})])
        study, _ = tx.studies.find_or_create(StudyKind.SWEEP, run_id=WELL_KEPT, spec={}, content_key="sweep:1")
        tx.studies.add_point(study.id, 0, {})
        named = {"name": "m", "version": 1, "run_id": weights.run_id, "reconstruction_id": weights.id}
        tx.models.promote("mdl-1", **named, document={}, created_at=1.5)
        needed = tx.jobs.list(limit=1).items[0].id
        tx.jobs.enqueue(JobKind.SAMPLE, payload={}, content_key="sample:1", needs=[needed])
    catalog.close()
    engine = create_engine(parse_url(empty_url))
    with engine.begin() as connection:
        before = contents(connection)
        command.downgrade(migration_config(connection), "-1")
    with engine.begin() as connection:
        assert schema_version.current_revision(connection) == revisions()[-2]
        back = contents(connection)
        assert all(back.values()), "no table that both revisions have is empty"
        for name, rows in back.items():
            same = set(rows[0])
            assert rows == [{key: value for key, value in row.items() if key in same} for row in before[name]], name
        with pytest.raises(SchemaOutOfDate, match="run `phema db upgrade`"):
            schema_version.check(connection, "here")
    catalog.upgrade()
    catalog.check()
    with engine.begin() as connection:
        after = contents(connection)
        assert {name: len(after[name]) for name in back} == {name: len(before[name]) for name in back}
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    with catalog.transaction() as tx:
        assert tx.leases.claim(list(JobKind), owner="w", lease_seconds=60) is not None
    catalog.close()


def test_migrations_form_one_line() -> None:
    found = revisions()
    assert found == sorted(found)
    assert found[-1] == wanted_revision()


@only("sqlite")
def test_sqlite_is_ready_for_many_processes(catalog: Catalog) -> None:
    with catalog._engine.begin() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) >= 5000


def test_a_failing_migration_changes_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = command.upgrade

    def upgrade_and_die(*arguments: object) -> None:
        upgrade(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "upgrade", upgrade_and_die)
    catalog = Catalog(empty_url)
    with pytest.raises(KeyboardInterrupt):
        catalog.upgrade()
    with pytest.raises(SchemaOutOfDate, match="no tables yet"):
        catalog.check()
    monkeypatch.undo()
    catalog.upgrade()
    catalog.check()
    catalog.close()


def test_a_draft_holds_what_the_models_have_and_the_tables_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    shutil.copytree(schema_version.MIGRATIONS, migrations)
    monkeypatch.setattr(schema_version, "MIGRATIONS", migrations)
    table = Table("notes", Base.metadata, Column("id", String, primary_key=True), Column("figures", Figures))
    try:
        path = draft("Keep notes")
    finally:
        Base.metadata.remove(table)
    assert path == migrations / "versions" / f"{int(wanted_revision()) + 1:04d}_keep_notes.py"
    drafted = path.read_text()
    assert drafted.startswith('"""Keep notes"""')
    assert f'revision = "{wanted_revision()}"' in drafted.replace("'", '"')
    assert "sa.Column('figures', sa.JSON()" in drafted
    assert re.findall(r"^    op\.(\w+)", drafted, re.MULTILINE) == ["create_table"], "nothing else changed"


def test_migrations_are_found_where_the_package_is() -> None:
    location = migration_config().get_main_option("script_location")
    assert location is not None
    assert location.endswith("shared/catalog/migrations")
