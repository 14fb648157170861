"""Speed of the service: figures beside their targets.

- `scale`: processor time of the API, and of the database server, for pages, metrics, plans and claims in a catalog of
  10,000 runs, 100,000 snapshots and 100,000 jobs, on SQLite and PostgreSQL.
- `plan`: planning 31 outputs from 2,000 pairs of snapshots, in a process of its own.
- `up`: `phema up` until it is ready, statements of the idle service, a training until its first step, a small
  reconstruction, and 50 clients while a run trains.

Times of `up` depend on what else the machine does; the load at the start is printed.

    python -m benchmarks.service [--parts scale,plan,up] [--divide 1] [--clients 50] [--seconds 60] [--json]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.large_catalog import EVERY, TIMES, WELL_KEPT, Size, fill
from benchmarks.many_clients import poll_and_post
from benchmarks.report import machine, show
from phema.local_service.up import running_service
from phema.shared.catalog import Catalog, JobKind
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

ROOT = Path(__file__).parents[1]
REQUESTS = 20
"""Of one kind, of which the mean counts; one before them opens connections."""
NEW_PLANS = 3
"""Number of the times that are planned for the first time; their plans are solved from snapshots."""
IDLE_SECONDS = 20.0
WAIT_SECONDS = 300.0
Row = dict[str, Any]

PAGES = (
    *("/v1/runs", "/v1/runs?state=failed", "/v1/runs/experiment-5"),
    *("/v1/jobs", "/v1/jobs?kind=train", "/v1/jobs?kind=external", "/v1/jobs?state=running"),
    *("/v1/jobs?kind=evaluate&state=failed", f"/v1/jobs?run={WELL_KEPT}&kind=reconstruct&state=failed"),
    *(f"/v1/runs/{WELL_KEPT}/{part}" for part in ("snapshots", "reconstructions", "bases", "metrics")),
    *("/v1/evaluations", f"/v1/evaluations?run={WELL_KEPT}"),
)


def row(what: str, measured: float, unit: str, target: str) -> Row:
    return {"what": what, "measured": float(measured), "unit": unit, "target": target}


class _Undo(Exception):
    """Rolls a transaction back."""


def main() -> None:
    options = arguments()
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {"scale": scale, "plan": planning, "up": service}
    facts = machine() | {"load": f"{os.getloadavg()[0]:.1f} processes at the start"}
    rows = [found for name in options.parts.split(",") for found in parts[name](options)]
    show(facts, rows, as_json=options.json)


# Scale


@dataclass(frozen=True)
class Database:
    name: str
    url: str
    processes: Callable[[], list[int]]
    """Ids of the server's processes; none for SQLite."""


def scale(options: argparse.Namespace) -> Iterator[Row]:
    size = Size().divided(options.divide)
    with tempfile.TemporaryDirectory(prefix="phema-benchmark-") as folder:
        sqlite = Database("SQLite", f"sqlite:///{folder}/catalog.db", list)
        yield from _at_scale(sqlite, Path(folder), size)
        with postgres() as server:
            if server is not None:
                yield from _at_scale(server.database, Path(folder), size)


def _at_scale(database: Database, folder: Path, size: Size) -> Iterator[Row]:
    catalog = Catalog(database.url)
    catalog.upgrade()
    fill(database.url, size)
    with api(database.url, folder / "state") as (url, pid), httpx.Client(base_url=url, trust_env=False) as client:

        def spent(request: Callable[[], httpx.Response]) -> float:
            request().raise_for_status()
            processes = [pid, *database.processes()]
            before = sum(map(cpu_seconds, processes))
            for _ in range(REQUESTS):
                request()
            return 1e3 * (sum(map(cpu_seconds, processes)) - before) / REQUESTS

        pages = {page: spent(lambda page=page: client.get(page)) for page in PAGES}
        slowest = max(pages, key=lambda page: pages[page])
        body = {"sigma_rel": [0.13], "plan_only": True}
        plans = f"/v1/runs/{WELL_KEPT}/reconstructions"

        def new_plans() -> float:
            """Mean of plans of about 64 snapshots at times that were not planned before."""
            client.post(plans, json=body | {"num_images": EVERY * (TIMES - NEW_PLANS - 1)}).raise_for_status()
            processes = [pid, *database.processes()]
            before = sum(map(cpu_seconds, processes))
            for time_ in range(TIMES - NEW_PLANS, TIMES):
                client.post(plans, json=body | {"num_images": EVERY * time_}).raise_for_status()
            return 1e3 * (sum(map(cpu_seconds, processes)) - before) / NEW_PLANS

        yield row(f"{database.name}: slowest page, {slowest}", pages[slowest], "ms CPU", "<= 20")
        yield row(f"{database.name}: median page", median(pages.values()), "ms CPU", "<= 20")
        yield row(f"{database.name}: /metrics", spent(lambda: client.get("/metrics")), "ms CPU", "<= 20")
        first = f"{database.name}: first plan of a time, {2 * (TIMES - NEW_PLANS)} to {2 * TIMES - 2} snapshots"
        yield row(first, new_plans(), "ms CPU", "<= 20")
        yield row(
            f"{database.name}: plan, 64 snapshots", spent(lambda: client.post(plans, json=body)), "ms CPU", "<= 20"
        )
    for name, kinds in {"worker": [JobKind.RECONSTRUCT, JobKind.EVALUATE], "trainer": [JobKind.TRAIN]}.items():
        _claim(catalog, kinds)
        processes = [os.getpid(), *database.processes()]
        before = sum(map(cpu_seconds, processes))
        for _ in range(REQUESTS):
            _claim(catalog, kinds)
        claims = 1e3 * (sum(map(cpu_seconds, processes)) - before) / REQUESTS
        yield row(f"{database.name}: claim of a {name}", claims, "ms CPU", "<= 20")
    catalog.close()


def _claim(catalog: Catalog, kinds: list[JobKind]) -> None:
    try:
        with catalog.transaction() as tx:
            assert tx.leases.claim(kinds, owner="benchmark", lease_seconds=60) is not None
            raise _Undo
    except _Undo:
        pass


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process: Linux has such a clock for every process (clock_getcpuclockid)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # it has ended


@contextmanager
def api(database_url: str, state: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of an API on this catalog."""
    variables = {"PHEMA_STATE_DIR": str(state), "PHEMA_DATABASE_URL": database_url, "PHEMA_API_PORT": "0"}
    command = [sys.executable, "-m", "phema.services.api"]
    environment = {**os.environ, **variables}
    state.mkdir(exist_ok=True)
    with (state / "api.log").open("a") as log:
        child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().split()[-1], child.pid
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


@dataclass(frozen=True)
class Postgres:
    database: Database
    log: Path

    def statements(self) -> int:
        """Statements that its log holds."""
        return len(re.findall(r"LOG:  (?:statement|execute [^:]*):", self.log.read_text(errors="replace")))

    def log_statements(self) -> None:
        import psycopg

        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def postgres() -> Iterator[Postgres | None]:
    """A server of its own; None where PostgreSQL is not installed."""
    import psutil

    from deploy.local.postgres import find_binaries
    from tests.fixtures.postgres import _serve

    binaries = find_binaries()
    if binaries is None:
        print("PostgreSQL is not installed: its rows are missing", file=sys.stderr)
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="phema-benchmark-postgres-"))
    serving = _serve(binaries, folder)
    try:
        server = next(serving)
        main_id = int((folder / "data" / "postmaster.pid").read_text().split()[0])

        def processes() -> list[int]:
            return [main_id, *(child.pid for child in psutil.Process(main_id).children())]

        yield Postgres(Database("PostgreSQL", server.url(server.create_database()), processes), folder / "log")
        next(serving, None)
    finally:
        serving.close()
        shutil.rmtree(folder)


# Planning


def planning(options: argparse.Namespace) -> Iterator[Row]:
    pairs = max(2_000 // options.divide, 8)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, cpu, peak = pool.submit(_plan, pairs).result()
    yield row(f"plan: 31 outputs from {pairs:,} pairs", seconds, "s", "<= 2")
    yield row("the same, processor time", cpu, "s CPU", "-")
    yield row("the same, growth of memory", peak, "MiB", "<= 300")


def _plan(pairs: int) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and growth of the peak of resident memory in MiB. Without probes."""
    widths = (0.05, 0.10)
    stored = [
        StoredSnapshot(f"{t}-{w}", 1000 * (t + 1), Profile.power(w), f"{t}-{w}", 2**28, f"{t:08d}{w}", "float16")
        for t in range(pairs)
        for w in widths
    ]
    wanted = [Profile.power(0.02 * (0.25 / 0.02) ** (i / 30)) for i in range(31)]
    plan(stored[:64], wanted[:2], num_images=stored[63].num_images, probes={}, bases=())
    memory = _peak_mib()
    began, cpu = time.perf_counter(), time.process_time()
    plan(stored, wanted, num_images=stored[-1].num_images, probes={}, bases=())
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    return seconds, used, _peak_mib() - memory


def _peak_mib() -> float:
    """Peak of this process's resident memory. `ru_maxrss` would include that of the process that started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


# The whole service


def service(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="phema-benchmark-") as folder:
        began = time.monotonic()
        with running_service(Path(folder) / "state") as url, httpx.Client(base_url=url, trust_env=False) as client:
            yield row("`phema up` until it is ready", time.monotonic() - began, "s", "<= 8")
            yield row("training: request to first step", _first_step(client, "first"), "s", "<= 10")
            _wait(client, "first", lambda run: run["state"] == "succeeded")
            times = [_reconstruction(client, "first", 0.06 + 0.01 * i) for i in range(7)]
            yield row("small reconstruction: POST to result, median", median(times), "s", "<= 0.1")
            _first_step(client, "beside", total_images=10_000_000)
            answers = poll_and_post(url, "first", clients=options.clients, seconds=options.seconds)
            for error in answers.errors[:10]:
                print(error, file=sys.stderr)
            clients = f"{options.clients} clients for {options.seconds:g} s while a run trains"
            yield row(f"{clients}: errors of {len(answers.seconds)} requests", len(answers.errors), "", "0")
            yield row("the same, p99", answers.p99, "s", "-")
            client.post("/v1/runs/beside/cancel", headers={"content-type": "application/json"})
        with postgres() as server:
            if server is not None:
                yield from _idle(server, Path(folder) / "idle")


def _first_step(client: httpx.Client, name: str, total_images: int = 6400) -> float:
    """Seconds from the request of a training on the digits until its first step shows in its progress."""
    config = {
        "total_images": total_images,
        "batch_size": 64,
        "status_every": 64,
        "snapshot_every": 640,
        "checkpoint_every": 6400,
        "magnitudes_every": 6400,
    }
    began = time.monotonic()
    client.post("/v1/runs", json={"name": name, "preset": "digits-tiny", "config": config}).raise_for_status()
    _wait(client, name, lambda run: run["num_images"] > 0)
    return time.monotonic() - began


def _wait(client: httpx.Client, run: str, condition: Callable[[Row], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition(found := client.get(f"/v1/runs/{run}").json()):
        if found["state"] == "failed" or time.monotonic() > deadline:
            raise SystemExit(f"run {run} is {found['state']} after {found['num_images']} images: {found['error']}")
        time.sleep(0.05)


def _reconstruction(client: httpx.Client, run: str, sigma_rel: float) -> float:
    began = time.monotonic()
    answer = client.post(f"/v1/runs/{run}/reconstructions", json={"sigma_rel": [sigma_rel]}).raise_for_status().json()
    identity = answer["reconstructions"][0]["id"]
    while (state := client.get(f"/v1/reconstructions/{identity}").json()["state"]) != "succeeded":
        if state == "failed" or time.monotonic() - began > WAIT_SECONDS:
            raise SystemExit(f"reconstruction {identity} is {state}")
        time.sleep(0.005)
    return time.monotonic() - began


def _idle(server: Postgres, state: Path) -> Iterator[Row]:
    with running_service(state, env={"PHEMA_DATABASE_URL": server.database.url}):
        server.log_statements()
        time.sleep(2)
        before = server.statements()
        time.sleep(IDLE_SECONDS)
        yield row("idle service: statements", (server.statements() - before) / IDLE_SECONDS, "1/s", "below the last")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="scale,plan,up", help="comma-separated list (default %(default)s)")
    parser.add_argument("--divide", type=int, default=1, help="divide the sizes of scale and plan, for a quick look")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for which the clients ask")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
