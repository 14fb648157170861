"""One storm, from the undisturbed runs to the last check."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil

from tests.chaos import checks
from tests.chaos.cluster import Cluster, StormFailed, storm_folder
from tests.chaos.faults import catalog_loss, registry, restarts
from tests.chaos.imports import Imports
from tests.chaos.reference import PRESET, Fields, Undisturbed, fields_of_runs, stored_snapshots, train_undisturbed
from tests.chaos.report import Outcome
from tests.chaos.storm import Storm
from tests.chaos.workload import Workload


def run_storm(*, faults: int, seed: int, short: bool, logs: Path, report: Callable[[str], None]) -> Outcome:
    """Raises StormFailed with what does not hold, once the services' logs are in `logs`."""
    report(f"a storm of {faults} faults, seed {seed}")
    command = f"make chaos FAULTS={faults} SEED={seed}"
    if short:
        command = f"python -m tests.chaos --short --faults {faults} --seed {seed}"
    try:
        storm, seconds, lines = _run_storm(faults=faults, seed=seed, short=short, logs=logs, report=report)
    except BaseException:
        report(f"the storm failed; repeat it with `{command}`; the logs of its services are in {logs}")
        raise
    return Outcome(storm, command, seconds, lines)


def _run_storm(
    *, faults: int, seed: int, short: bool, logs: Path, report: Callable[[str], None]
) -> tuple[Storm, float, list[str]]:
    """(the storm, seconds from its first fault to the end of all work, what the checks found)."""
    configurations = fields_of_runs(3_840 if short else 6_400, two_workers=not short)
    known = [each for each in registry.load() if not (short and each.slow)]
    before = set(psutil.Process().children(recursive=True))
    report("training the undisturbed runs")
    undisturbed = {
        number: train_undisturbed(fields) for number, fields in enumerate(configurations) if "num_workers" not in fields
    }
    with ExitStack() as stack:
        folder = stack.enter_context(storm_folder(logs))
        report("starting PostgreSQL, S3 server, Ray, API, trainers and workers")
        cluster = stack.enter_context(Cluster(folder, workers=1 if short else 2, cpus=6))
        imports = Imports(folder, cluster.environment)
        stack.callback(imports.stop)
        workload = Workload(cluster.url, imports, configurations, seed=seed)
        stack.callback(workload.requests.close)
        stack.callback(workload.stop_asking)
        storm = Storm(cluster, workload, imports, seed=seed, report=report)
        storm.watch.start()
        stack.callback(storm.watch.stop)
        for number in range(len(undisturbed), len(configurations)):
            report("training an undisturbed run of two workers")
            undisturbed[number] = _train_calmly(storm, configurations[number])
        workload.start()
        storm.wait_for(lambda: storm.under_way() not in ("nothing runs", ""), "the first work")
        stack.enter_context(_ended_by_interrupts(storm))
        began = time.monotonic()
        _rage(storm, storm.choices(known, lead=1 if short else 4), faults)
        storm.settle()
        seconds = time.monotonic() - began
        report(f"all work has ended after {seconds:.0f} s; checking")
        lines = checks.check_everything(storm, undisturbed)
    if left := set(psutil.Process().children(recursive=True)) - before:
        raise StormFailed(f"processes are left over: {[process.cmdline() for process in left]}")
    return storm, seconds, [*lines, "no process is left over"]


@contextmanager
def _ended_by_interrupts(storm: Storm) -> Iterator[None]:
    """The first Ctrl-C ends the faults and lets the checks follow; the second ends everything."""

    def on_interrupt(*_: object) -> None:
        if storm.enough.is_set():
            raise KeyboardInterrupt
        storm.report("enough faults: waiting for the work to end; Ctrl-C again ends everything at once")
        storm.enough.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train_calmly(storm: Storm, fields: Fields) -> Undisturbed:
    """Before the storm, on its cluster: several workers need Ray."""
    storm.workload.requests.post("train", "/v1/runs", {"name": "calm", "preset": PRESET, "config": fields})
    storm.wait_for(lambda: storm.watch.unfinished_jobs() == 0, "the undisturbed run")
    with closing(storm.cluster.catalog()) as catalog:
        return stored_snapshots(catalog, storm.cluster.store(), "calm")


def _rage(storm: Storm, choices: Iterator[registry.Fault], faults: int) -> None:
    """Some faults, the loss of the catalog, the rest, and a rolling restart, after which nothing helps."""
    storm.rage(choices, max(4, faults // 4), faults)
    storm.inject(catalog_loss.NAME, catalog_loss.lose_catalog, faults)
    storm.rage(choices, faults - 1, faults)
    storm.inject("rolling restart of all services", restarts.rolling_restart, faults)
