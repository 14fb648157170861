"""What must hold once a storm is over. Each check raises StormFailed, or returns a line for the report."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import closing
from typing import Any

import psycopg

from phema.shared.snapshots import ObjectStore
from tests.chaos.cluster import StormFailed
from tests.chaos.faults.kills import DRIVER, TRAIN_WORKER
from tests.chaos.reference import Undisturbed, tensor_digest
from tests.chaos.served import check_served
from tests.chaos.storm import Storm
from tests.chaos.workload import TERMINAL

NAMED = """
SELECT 'runs/' || id || '/run.json' FROM runs
UNION SELECT key FROM snapshots UNION SELECT key FROM checkpoints
UNION SELECT key FROM reconstructions WHERE key IS NOT NULL
UNION SELECT vector ->> 'key' FROM bases, json_array_elements(vectors::json) AS vector WHERE vectors IS NOT NULL
UNION SELECT pictures_key FROM evaluations WHERE pictures_key IS NOT NULL
UNION SELECT archive ->> 'key' FROM evaluations WHERE archive IS NOT NULL
UNION SELECT result ->> 'key' FROM sample_parts WHERE result IS NOT NULL
UNION SELECT result ->> 'key' FROM samples WHERE result IS NOT NULL
UNION SELECT result ->> 'key' FROM previews WHERE result IS NOT NULL
"""
"""Keys of all objects that a row names."""
RESULTS_KNOWN = "SELECT id FROM evaluations UNION SELECT id FROM sample_parts UNION SELECT id FROM samples"
_RESULT = re.compile(r"(?:evaluations/parts|evaluations|samples)/([a-z]+-[0-9a-f]+)-")
"""Objects of results, which only a catalog knows: those of a lost catalog stay."""
SHARED = ("references/", "extractors/", "logs/")
"""Objects that no row names by design: caches under names of their content, and logs."""


def check_everything(storm: Storm, undisturbed: dict[int, Undisturbed]) -> list[str]:
    """All checks, in an order in which each may rely on the earlier ones."""
    return [
        jobs_ended(storm),
        requests_kept(storm),
        nothing_works_on(storm),
        weights_are_equal(storm, undisturbed),
        damage_is_found(storm),
        check_served(storm, undisturbed),
        repaired(storm),
        no_orphans(storm),
    ]


def ask(storm: Storm, query: str) -> list[Any]:
    with psycopg.connect(storm.cluster.catalog_url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def jobs_ended(storm: Storm) -> str:
    """Every job is in one terminal state, each attempt is closed, and none succeeded twice."""
    states = Counter(state for (state,) in ask(storm, "SELECT state FROM jobs"))
    if left := {state: number for state, number in states.items() if state not in TERMINAL}:
        raise StormFailed(f"jobs in a state that is not final: {left}")
    if left := ask(storm, "SELECT job_id, number FROM attempts WHERE ended_at IS NULL OR outcome IS NULL"):
        raise StormFailed(f"attempts of ended jobs are open: {left}")
    twice = "SELECT job_id FROM attempts WHERE outcome = 'succeeded' GROUP BY job_id HAVING count(*) > 1"
    if left := ask(storm, twice):
        raise StormFailed(f"jobs succeeded twice: {left}")
    (attempts,) = ask(storm, "SELECT count(*) FROM attempts")[0]
    _check_failures(storm)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    total = sum(states.values())
    return f"{total} jobs with {attempts} attempts since the loss of the catalog are in one terminal state: {counts}"


def _check_failures(storm: Storm) -> None:
    """Only a damaged snapshot may make a job fail."""
    failed = ask(storm, "SELECT id, kind, error FROM jobs WHERE state = 'failed' AND kind <> 'train' ORDER BY seq")
    for job, kind, error in failed:
        if not storm.damaged or not ("damaged" in (error or "") or _failed_with_another(storm, job)):
            raise StormFailed(f"{kind} job {job} failed: {error}")


def _failed_with_another(storm: Storm, job: str) -> bool:
    """Whether a job that this one needed failed too."""
    query = (
        "SELECT 1 FROM jobs other LEFT JOIN job_dependencies d ON d.needs_id = other.id "
        f"WHERE other.state IN ('failed', 'cancelled') AND (d.job_id = '{job}' OR other.parent_id = '{job}') LIMIT 1"
    )
    return bool(ask(storm, query))


def requests_kept(storm: Storm) -> str:
    """The API knows every job that it has promised, and has refused nothing without a reason."""
    requests = storm.workload.requests
    if requests.unexpected:
        raise StormFailed("unexpected answers:\n" + "\n".join(requests.unexpected[:20]))
    known = {job for (job,) in ask(storm, "SELECT id FROM jobs")}
    missing = [(asked.kind, job) for asked in requests.accepted for job in asked.jobs if job not in known]
    if missing:
        raise StormFailed(f"accepted jobs that the catalog does not have: {missing[:10]}")
    kinds = Counter(asked.kind for asked in requests.accepted)
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    refused = ", ".join(f"{number} {name}" for name, number in sorted(requests.refused.items())) or "none"
    return (
        f"{len(requests.accepted)} accepted requests are kept ({counts}); refused: {refused}; "
        f"{requests.repeats} repeated; {len(storm.imports.done)} imports done"
    )


def nothing_works_on(storm: Storm) -> str:
    """No process trains any more."""

    def none_left() -> bool:
        return not storm.cluster.processes(DRIVER) and not storm.cluster.processes(TRAIN_WORKER)

    storm.wait_for(none_left, "the end of all training processes")
    return "no process works on after the last job"


def weights_are_equal(storm: Storm, undisturbed: dict[int, Undisturbed]) -> str:
    """Every training run has succeeded, and its snapshots equal those of an undisturbed run, bit for bit."""
    store, compared, attempts = storm.cluster.store(), 0, 0
    thinned = {asked.path.split("/")[3] for asked in storm.workload.requests.accepted if asked.kind == "retain"}
    thinned |= storm.thinned_before
    with closing(storm.cluster.catalog()) as catalog:
        for name, configuration in storm.workload.runs.items():
            wanted = undisturbed[configuration].digests
            with catalog.transaction(read_only=True) as tx:
                run = tx.runs.get(name)
                rows = tx.snapshots.list(run.id)
                attempts += len(tx.jobs.attempts(run.job_id))
            if run.state != "succeeded":
                raise StormFailed(f"run {name} is {run.state}: {run.job.error}")
            found = {(row.num_images, row.sigma_rel): row.key for row in rows}
            absent = wanted.keys() - found.keys()
            last = max(time for time, _ in wanted)
            if found.keys() - wanted.keys() or (absent and name not in thinned and not storm.skipped_by_rebuild):
                raise StormFailed(f"run {name} has other snapshots than an undisturbed run: lacks {sorted(absent)}")
            if any(time == last for time, _ in absent):
                raise StormFailed(f"run {name} lacks its final snapshots")
            for time, key in found.items():
                if key in storm.damaged:
                    continue
                if tensor_digest(store.get(key)) != wanted[time]:  # type: ignore[index]
                    raise StormFailed(f"run {name}: the snapshot at {time} differs from that of an undisturbed run")
                compared += 1
    return (
        f"{len(storm.workload.runs)} runs ended in the weights of undisturbed ones: {compared} snapshots, bit for bit"
    )


def damage_is_found(storm: Storm) -> str:
    """`phema store verify` names exactly the damaged snapshots; a rebuild has named those that have no row now."""
    found = _verify(storm)
    named = {each["key"] for each in found["damaged"]}
    rows = {key for (key,) in ask(storm, "SELECT key FROM snapshots")}
    if wrong := [each for each in found["damaged"] if each["key"] not in storm.damaged]:
        raise StormFailed(f"objects are damaged that nobody has touched: {wrong}")
    explained = named | (storm.skipped_by_rebuild.keys() - rows)
    if missed := [key for key in storm.damaged if key not in explained]:
        raise StormFailed(f"damaged snapshots were not found: {missed}")
    flipped = f"{len(storm.damaged)} flipped bytes were found and named" if storm.damaged else "no byte was flipped"
    return f"`phema store verify` read {found['objects']} objects of rows; {flipped}"


def repaired(storm: Storm) -> str:
    """With the right bytes back, nothing is damaged, and a rebuild finds what it had left out."""
    for key in storm.damaged:
        storm.flip_byte(key)
    # Workers of the lost catalog may have stored weights after the rebuild in the storm.
    storm.cluster.run("db", "rebuild")
    if damaged := _verify(storm)["damaged"]:
        raise StormFailed(f"objects are damaged after the repair: {damaged}")
    return "nothing is damaged once the flipped bytes are repaired"


def _verify(storm: Storm) -> dict[str, Any]:
    done = storm.cluster.run("store", "verify", "--json", check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise StormFailed(f"phema store verify ended with {done.returncode}: {done.stderr[-2000:]}") from None
    if (done.returncode == 1) != bool(found["damaged"]):
        raise StormFailed(f"phema store verify ended with {done.returncode} and named {found['damaged']}")
    return found


def no_orphans(storm: Storm) -> str:
    """Once phema's own sweep has run, every object is named by a row."""
    storm.wait_for(lambda: not ask(storm, "SELECT 1 FROM deletions LIMIT 1"), "the deletion of all listed objects")
    store = storm.cluster.store()
    named = {key for (key,) in ask(storm, NAMED)}
    unnamed = [key for key in _keys(store) if key not in named and not key.startswith(SHARED)]
    known = {identity for (identity,) in ask(storm, RESULTS_KNOWN)}
    left_behind = [key for key in unnamed if (of := _RESULT.match(key)) is not None and of[1] not in known]
    if orphans := [key for key in unnamed if key not in left_behind]:
        raise StormFailed(f"{len(orphans)} objects have no row: {orphans[:10]}")
    if lacking := [key for key in named if store.head(key) is None]:
        raise StormFailed(f"rows name objects that do not exist: {lacking[:10]}")
    of_lost = f", {len(left_behind)} belong to results that only the lost catalog knew" if left_behind else ""
    return f"{len(named)} objects are named by rows, none is left over{of_lost}"


def _keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list()]
