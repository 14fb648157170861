"""Errors of the database become one clear sentence without a password."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, text

from deploy.local.postgres import UNPRIVILEGED
from phema.local_service.processes import free_port
from phema.shared.catalog import Catalog, CatalogError, CatalogUnreachable, JobKind, NotFound, SchemaOutOfDate
from phema.shared.settings import Settings
from phema.shared.wiring import catalog_from
from tests.catalog.conftest import ask
from tests.fixtures.catalog import only
from tests.fixtures.postgres import PostgresServer
from tests.servers.tunnel import tunnel

PASSWORD = "pa55-w0rd"


def sentence(error: BaseException) -> str:
    """The message, which must be one sentence on one line without the password."""
    message = str(error)
    assert message.endswith(".")
    assert "\n" not in message
    assert PASSWORD not in message
    return message


def refusals(url: str) -> list[str]:
    """The errors of `check`, `upgrade` and `transaction`, in this order."""
    said = []
    for use in (Catalog.check, Catalog.upgrade, read_jobs):
        catalog = Catalog(url)
        with pytest.raises(CatalogError) as refused:
            use(catalog)
        said.append(sentence(refused.value))
        catalog.close()
    return said


def read_jobs(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        tx.jobs.list()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "it is not a database URL"),
        ("", "it is not a database URL"),
        (f"postgresql://phema:{PASSWORD}@host:port/catalog", "it is not a database URL"),
        (f"mysql://phema:{PASSWORD}@host/catalog", "its URL must start with sqlite:/// or postgresql://"),
        ("sqlite://", "processes cannot share a database in memory, give sqlite:///PATH instead"),
        ("sqlite:///:memory:", "processes cannot share a database in memory, give sqlite:///PATH instead"),
    ],
)
def test_urls_of_no_use(url: str, reason: str) -> None:
    with pytest.raises(CatalogUnreachable) as refused:
        Catalog(url)
    assert reason in sentence(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgres_that_is_not_there(scheme: str) -> None:
    port = free_port()
    for said in refusals(f"{scheme}://phema:{PASSWORD}@127.0.0.1:{port}/catalog?password={PASSWORD}"):
        assert f"://phema@127.0.0.1:{port}/catalog cannot be used" in said
        assert "Connection refused" in said


@only("postgres")
def test_postgres_with_a_wrong_password_or_a_wrong_database(empty_url: str) -> None:
    login, place = empty_url.rsplit("@", 1)
    for said in refusals(f"{login.rsplit(':', 1)[0]}:{PASSWORD}@{place}"):
        assert 'password authentication failed for user "phema"' in said
    for said in refusals(f"{empty_url}_none"):
        assert "does not exist" in said


@only("postgres")
def test_postgres_that_only_reads(catalog: Catalog, catalog_url: str) -> None:
    database = catalog_url.rsplit("/", 1)[1]
    with psycopg.connect(catalog_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with pytest.raises(CatalogUnreachable, match="it is read-only"):
        catalog.check()


@only("postgres")
def test_postgres_that_was_restarted_between_transactions(catalog: Catalog, catalog_url: str) -> None:
    ask(catalog)
    hang_up(catalog_url)
    with catalog.transaction() as tx:
        assert len(tx.jobs.list().items) == 1


@only("postgres")
@pytest.mark.parametrize("moment", ["between", "within"])
def test_postgres_that_falls_silent(catalog_url: str, postgres_server: PostgresServer, moment: str) -> None:
    """A connection that is half open: the proxy in between takes every byte and passes none on."""
    with tunnel(postgres_server.port) as way:
        catalog = Catalog(catalog_url.replace(f":{postgres_server.port}/", f":{way.port}/"), answer_seconds=0.5)
        read_jobs(catalog)
        if moment == "between":
            way.silent()

        def read_while_it_falls_silent() -> None:
            with catalog.transaction() as tx:
                way.silent()
                tx.jobs.list()

        with pytest.raises(CatalogUnreachable) as refused:
            read_while_it_falls_silent()
        reasons = ("connection timeout expired", "the server has not answered for 1.5 seconds")
        assert any(reason in sentence(refused.value) for reason in reasons)
        way.speak()
        read_jobs(catalog)
        catalog.close()


@only("postgres")
def test_postgres_that_is_busy_and_processes_that_left_their_locks(catalog: Catalog, catalog_url: str) -> None:
    """A row that another transaction holds is waited for, but not for ever, and that one ends when it is idle."""
    impatient = Catalog(catalog_url, answer_seconds=0.5)
    job = ask(catalog)

    def wait_for_the_row() -> None:
        with catalog.transaction() as holder:
            holder.jobs.request_cancel(job.id)
            with impatient.transaction() as tx:
                tx.jobs.request_cancel(job.id)

    with pytest.raises(CatalogUnreachable, match="canceling statement due to statement timeout"):
        wait_for_the_row()
    with impatient._engine.connect() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
    assert shown == "500ms"
    impatient.close()


@only("postgres")
def test_tcp_gives_up_within_seconds(catalog: Catalog) -> None:
    with catalog._engine.connect() as connection:
        info = connection.connection.driver_connection.info  # type: ignore[union-attr]
        given = info.get_parameters()
    assert {name: given.get(name) for name in ("keepalives_idle", "tcp_user_timeout", "connect_timeout")} == {
        "keepalives_idle": "5",
        "tcp_user_timeout": "6000",
        "connect_timeout": "4",
    }


@only("sqlite")
def test_sqlite_that_another_process_holds_is_given_up_before_the_lease(catalog_url: str) -> None:
    """Were the last heartbeat sent right before, the lease would still hold when this one fails."""
    settings = Settings(database_url=catalog_url, heartbeat_seconds=1, lease_seconds=4)
    catalog = catalog_from(settings)
    ask(catalog)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="worker", lease_seconds=settings.lease_seconds)
    assert job is not None
    with holding(catalog_url):
        before = catalog.now()
        with pytest.raises(CatalogUnreachable, match="database is locked"), catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=settings.lease_seconds)
        assert catalog.now() < before + settings.lease_seconds
    catalog.close()


@contextmanager
def holding(url: str) -> Iterator[None]:
    """Another process holds the file's only lock for writers."""
    code = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "connection.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, url.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield


@only("postgres")
def test_postgres_that_dies_within_a_transaction_leaves_nothing_half_written(
    catalog: Catalog, catalog_url: str
) -> None:
    def die_in_the_middle() -> None:
        with catalog.transaction() as tx:
            tx.runs.create("half", {}, "hash", total_images=1)
            hang_up(catalog_url)
            tx.runs.create("other half", {}, "hash", total_images=1)

    with pytest.raises(CatalogUnreachable) as refused:
        die_in_the_middle()
    assert "terminating connection" in sentence(refused.value)
    with catalog.transaction() as tx:
        assert tx.runs.list().items == []


def hang_up(url: str) -> None:
    """End every other connection to the database, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_sqlite_that_is_not_there(tmp_path: Path) -> None:
    said = refusals(f"sqlite:///{Path('/proc/none/catalog.db')}")
    assert "There is no catalog at sqlite:////proc/none/catalog.db yet: run `phema db upgrade`." in said
    assert "its folder cannot be created" in said[1]
    assert "unable to open database file" in said[2]
    assert not list(tmp_path.iterdir())


def test_sqlite_that_is_something_else(tmp_path: Path) -> None:
    poem = tmp_path / "poem.db"
    poem.write_text("Shall I compare thee to a summer's day? " * 100)
    for said in refusals(f"sqlite:///{poem}"):
        assert "file is not a database" in said
    for said in refusals(f"sqlite:///{tmp_path}"):
        assert "unable to open database file" in said


READ_ONLY_CHECK = """
import os, sys
from phema.shared.catalog import Catalog, CatalogUnreachable
catalog = Catalog(sys.argv[1])
catalog.check()
catalog.close()
if os.geteuid() == 0:  # root may write whatever the permissions say
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
try:
    catalog.check()
except CatalogUnreachable as error:
    print(error)
"""


def test_sqlite_that_only_reads(sqlite_template: Path) -> None:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="phema-catalog-") as name:
        folder = Path(name)
        shutil.copy(sqlite_template, folder / "catalog.db")
        (folder / "catalog.db").chmod(0o444)
        folder.chmod(0o755)
        command = [sys.executable, "-c", READ_ONLY_CHECK, f"sqlite:///{folder}/catalog.db", str(UNPRIVILEGED)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "cannot be used: attempt to write a readonly database." in ran.stdout


@only("sqlite")
def test_a_full_disk_leaves_nothing_half_written(catalog: Catalog) -> None:
    """SQLite's limit on pages raises the same error as a full disk."""

    @event.listens_for(catalog._engine, "begin")
    def fill(connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    catalog.close()

    def write_much() -> None:
        with catalog.transaction() as tx:
            run = tx.runs.create("run", {}, "hash", total_images=1)
            for i in range(1000):
                tx.history.put(run.id, i, {f"magnitude {j}": 1.0 for j in range(100)})

    with pytest.raises(CatalogUnreachable, match="cannot be used: database or disk is full"):
        write_much()
    event.remove(catalog._engine, "begin", fill)
    catalog.close()
    with catalog.transaction() as tx:
        assert tx.runs.list().items == []


def test_a_catalog_without_tables(empty_url: str) -> None:
    catalog = Catalog(empty_url)
    with pytest.raises(SchemaOutOfDate, match="run `phema db upgrade`"):
        catalog.check()
    catalog.upgrade()
    catalog.check()
    with catalog._engine.begin() as connection:
        connection.execute(text("DROP TABLE history"))
    lacks = "lacks tables of this version of phema: run `phema db upgrade`"
    with pytest.raises(SchemaOutOfDate, match=lacks), catalog.transaction() as tx:
        tx.history.list("run")
    catalog.close()


def test_an_exception_rolls_back_and_passes_through(catalog: Catalog) -> None:
    class Mine(Exception):
        pass

    def fail() -> None:
        with catalog.transaction() as tx:
            tx.runs.create("run", {}, "hash", total_images=1)
            raise Mine

    with pytest.raises(Mine):
        fail()
    with pytest.raises(NotFound), catalog.transaction() as tx:
        tx.runs.get("run")


def test_read_only_transactions_read_beside_a_writer_and_write_nothing(catalog: Catalog) -> None:
    with catalog.transaction() as writer:
        writer.runs.create("unseen", {}, "hash", total_images=1)
        with catalog.transaction(read_only=True) as reader:
            assert reader.runs.list().items == []
    with catalog.transaction(read_only=True) as reader:
        assert len(reader.runs.list().items) == 1
    catalog.close()
    with catalog.transaction(read_only=True) as reader:
        assert len(reader.jobs.list().items) == 1
    with pytest.raises(CatalogUnreachable, match=r"read-?only"), catalog.transaction(read_only=True) as tx:
        tx.runs.create("refused", {}, "hash", total_images=1)
    ask(catalog)


def test_no_nan_in_json(catalog: Catalog) -> None:
    """PostgreSQL refuses it, so SQLite must too."""
    with pytest.raises(Exception, match="not JSON compliant"), catalog.transaction() as tx:
        tx.runs.create("run", {"value": float("nan")}, "hash", total_images=1)


def test_a_catalog_shows_no_password() -> None:
    catalog = Catalog(f"postgresql://phema:{PASSWORD}@db.example:5432/catalog?password={PASSWORD}")
    assert repr(catalog) == "Catalog('postgresql://phema@db.example:5432/catalog')"
