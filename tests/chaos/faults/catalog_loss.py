"""The catalog is dropped, and built again from the bucket alone, while all services run. Scheduled, not random."""

from __future__ import annotations

import json
from contextlib import closing

import psycopg

from tests.chaos.cluster import StormFailed
from tests.chaos.storm import Storm

NAME = "catalog dropped, then rebuilt from the bucket"
RECOVERY = "`phema db rebuild`; unfinished runs are resumed, unfinished jobs asked anew"


def lose_catalog(storm: Storm) -> str:
    storm.wait_for(lambda: bool(_snapshot_keys(storm)), "a first snapshot")
    storm.workload.hold()
    before = _snapshot_keys(storm)
    with psycopg.connect(storm.cluster.database_url("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE phema WITH (FORCE)")
        connection.execute("CREATE DATABASE phema")
    done = storm.cluster.run("db", "rebuild", "--json", check=False)
    try:
        rebuilt = json.loads(done.stdout)
    except ValueError:
        raise StormFailed(f"phema db rebuild ended with {done.returncode}: {done.stderr[-2000:]}") from None
    storm.skipped_by_rebuild |= rebuilt["skipped"]
    if lost := before - _snapshot_keys(storm) - set(storm.damaged):
        raise StormFailed(f"the rebuild has not found snapshots that had rows: {sorted(lost)[:3]}")
    if missed := set(storm.damaged) & before - rebuilt["skipped"].keys():
        raise StormFailed(f"the rebuild has not named damaged snapshots: {sorted(missed)}")
    accepted = storm.workload.requests.accepted
    storm.thinned_before = {asked.path.split("/")[3] for asked in accepted if asked.kind == "retain"}
    lost = storm.workload.forget()
    again = storm.workload.ask_again(lost)
    storm.imports.repeat_all()
    storm.workload.go_on()
    back = f"{rebuilt['runs']} runs and {rebuilt['snapshots']} snapshots came back"
    return f"{back}; {len(lost)} requests were unfinished, {again} sent anew"


def _snapshot_keys(storm: Storm) -> set[str]:
    with closing(storm.cluster.catalog()) as catalog, catalog.transaction(read_only=True) as tx:
        return {row.key for run in tx.runs.all() for row in tx.snapshots.list(run.id)}
