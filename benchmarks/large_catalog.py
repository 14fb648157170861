"""Fills an empty catalog as a busy installation would have it after years, with inserts of many rows each.

One run, `WELL_KEPT`, has `2 * TIMES` snapshots with probes, reconstructions, bases and evaluations. All other runs
share the remaining snapshots. Most jobs have ended, 1 % of them failed; 1 % is queued.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert, text

from phema.shared.catalog.content_keys import canonical
from phema.shared.catalog.engine import open_engine, parse_url
from phema.shared.catalog.models import (
    PRIORITY,
    Attempt,
    AttemptOutcome,
    Base,
    Basis,
    Evaluation,
    HistoryPoint,
    Job,
    JobKind,
    JobState,
    Reconstruction,
    Run,
    Snapshot,
)
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS
from phema.shared.snapshots.planning.basis_plan import BasisPlan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

WELL_KEPT = "run-000000"
TIMES = 32
"""Snapshot times of the run WELL_KEPT, 12,800 images apart; two averages at each."""
EVERY = 12_800
STORED = (0.05, 0.10)
_MANY = 2_000
"""Rows per insert."""
_EPOCH = 1.7e9
_KINDS = (JobKind.RECONSTRUCT, JobKind.EVALUATE, JobKind.RECONSTRUCT, JobKind.COMPACT, JobKind.RETAIN)
_STATES = {3: JobState.FAILED, 6: JobState.CANCELLED, 7: JobState.QUEUED}
"""State of a run's job, or of another job, by its number modulo 100; all others have succeeded."""


@dataclass(frozen=True)
class Size:
    """Numbers of rows. Every tenth job has a reconstruction, every twentieth an evaluation."""

    runs: int = 10_000
    snapshots: int = 100_000
    jobs: int = 100_000

    @property
    def jobs_per_run(self) -> int:
        return self.jobs // self.runs

    def divided(self, by: int) -> Size:
        return Size(self.runs // by, self.snapshots // by, self.jobs // by)


def fill(url: str, size: Size | None = None) -> None:
    """Write the rows into the migrated, empty catalog at `url`, then let the database count them."""
    size = size or Size()
    engine = open_engine(parse_url(url), answer_seconds=600.0)
    with engine.begin() as connection:
        for model, rows in (
            (Run, _runs(size)),
            (Job, _jobs(size)),
            (Attempt, _attempts(size)),
            (Snapshot, _snapshots(size)),
            (HistoryPoint, _history()),
            (Reconstruction, _reconstructions(size)),
            (Basis, _bases()),
            (Evaluation, _evaluations(size)),
        ):
            _insert(connection, model, rows)
        _set_sequences(connection)
    if engine.dialect.name == "postgresql":
        # Autovacuum would do so a minute later.
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _insert(connection: Connection, model: type[Base], rows: Iterator[dict[str, Any]]) -> None:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == _MANY:
            connection.execute(insert(model), some)
            some = []
    if some:
        connection.execute(insert(model), some)


def _set_sequences(connection: Connection) -> None:
    """Later inserts get the numbers after those that were written here."""
    if connection.dialect.name == "postgresql":
        for table in ("runs", "jobs", "reconstructions", "bases", "evaluations"):
            connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), (SELECT max(seq) FROM {table}))")
            )


def _run(number: int) -> str:
    return f"run-{number:06d}"


def _job(number: int) -> str:
    return f"job-{number:08d}"


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _runs(size: Size) -> Iterator[dict[str, Any]]:
    config = resolve("digits-tiny").model_dump(mode="json")
    for number in range(size.runs):
        yield {
            "seq": number + 1,
            "id": _run(number),
            "name": f"experiment-{number}",
            "config": config,
            "config_hash": _hash("config"),
            "total_images": TIMES * EVERY,
            "num_images": TIMES * EVERY,
            "job_id": _job(number * size.jobs_per_run),
            "created_at": _EPOCH + number,
        }


def _jobs(size: Size) -> Iterator[dict[str, Any]]:
    for number in range(size.jobs):
        kind, state, run = _described(size, number)
        ended = state is not JobState.QUEUED
        yield {
            "seq": number + 1,
            "id": _job(number),
            "kind": kind,
            "state": state,
            "priority": PRIORITY[kind],
            "run_id": run,
            "request_id": _hash("request", number)[:16],
            "payload": {"run_id": run, "reconstruction_ids": [_hash(number)[:16]]},
            "content_key": f"{kind}:{_hash(number)}",
            "fence": int(ended),
            "attempts": int(ended),
            "max_attempts": 5,
            "not_before": 0.0,
            "progress": float(ended),
            "result": {"bytes_read": 2**30, "seconds": 2.0} if state is JobState.SUCCEEDED else None,
            "error": "The worker fell silent." if state is JobState.FAILED else None,
            "created_at": _EPOCH + number,
            "started_at": _EPOCH + number + 1 if ended else None,
            "finished_at": _EPOCH + number + 2 if ended else None,
        }


def _described(size: Size, number: int) -> tuple[JobKind, JobState, str]:
    """Kind, state and run of a job. Trainings lie between the others; WELL_KEPT has one of 200 others."""
    run, other = divmod(number, size.jobs_per_run)
    if not other:
        return JobKind.TRAIN, _STATES.get(run % 100, JobState.SUCCEEDED), _run(run)
    run = 0 if number % 200 == 5 else number % size.runs
    return _KINDS[number % len(_KINDS)], _STATES.get(number % 100, JobState.SUCCEEDED), _run(run)


def _attempts(size: Size) -> Iterator[dict[str, Any]]:
    outcomes = {JobState.FAILED: AttemptOutcome.FAILED, JobState.CANCELLED: AttemptOutcome.CANCELLED}
    for number in range(size.jobs):
        _, state, _ = _described(size, number)
        if state is not JobState.QUEUED:
            yield {
                "job_id": _job(number),
                "number": 1,
                "submission_id": f"{_job(number)}-a1",
                "owner": "worker-1",
                "started_at": _EPOCH + number + 1,
                "ended_at": _EPOCH + number + 2,
                "outcome": outcomes.get(state, AttemptOutcome.SUCCEEDED),
                "error": "The worker fell silent." if state is JobState.FAILED else None,
            }


def _snapshots(size: Size) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal(PROBE_WEIGHTS).astype(np.float32)
    for time in range(TIMES):
        weights += 0.1 * generator.standard_normal(PROBE_WEIGHTS).astype(np.float32)
        for sigma_rel in STORED:
            yield _snapshot(0, time, sigma_rel, weights.tobytes())
    for number in range(2 * TIMES, size.snapshots):
        run, index = 1 + number % (size.runs - 1), number // (size.runs - 1)
        yield _snapshot(run, index // 2, STORED[index % 2], None)


def _snapshot(run: int, time: int, sigma_rel: float, probe: bytes | None) -> dict[str, Any]:
    profile = Profile.power(sigma_rel).model_dump(mode="json")
    num_images = EVERY * (time + 1)
    return {
        "id": f"snap-{_hash('snapshot', run, time, sigma_rel)[:16]}",
        "run_id": _run(run),
        "num_images": num_images,
        "profile": profile,
        "profile_key": canonical(profile),
        "sigma_rel": sigma_rel,
        "dtype": "float16",
        "key": f"runs/{_run(run)}/snapshots/{num_images:012d}-{sigma_rel:g}.safetensors",
        "size": 2**28,
        "sha256": _hash("weights", run, time, sigma_rel),
        "probe": probe,
        "pinned": False,
        "created_at": _EPOCH + time,
    }


def _history() -> Iterator[dict[str, Any]]:
    values = {f"activation/block{i:02d}": 1.0 for i in range(60)} | {"loss": 0.5, "learning_rate": 0.01}
    for index in range(2_000):
        yield {"run_id": WELL_KEPT, "num_images": 640 * (index + 1), "values": values, "created_at": _EPOCH + index}


def _plan() -> dict[str, Any]:
    snapshots = [
        {
            "id": f"snap-{_hash('snapshot', 0, time, sigma_rel)[:16]}",
            "num_images": EVERY * (time + 1),
            "profile": Profile.power(sigma_rel).model_dump(mode="json"),
            "key": f"runs/{WELL_KEPT}/snapshots/{EVERY * (time + 1):012d}-{sigma_rel:g}.safetensors",
            "size": 2**28,
            "sha256": _hash("weights", 0, time, sigma_rel),
            "dtype": "float16",
        }
        for time in range(TIMES)
        for sigma_rel in STORED
    ]
    errors = {"profile_error": 1e-4, "rounding_error": 1e-5, "predicted_error": 1e-4, "noise_gain": 1.0}
    return {"snapshots": snapshots, "coefficients": [1 / len(snapshots)] * len(snapshots), **errors}


def _reconstructions(size: Size) -> Iterator[dict[str, Any]]:
    plan = _plan()
    for number in range(5, size.jobs, 10):
        _, _, run = _described(size, number)
        profile = Profile.power(0.02 + 0.23 * number / size.jobs)
        yield {
            "seq": number // 10 + 1,
            "id": f"rec-{number:08d}",
            "run_id": run,
            "num_images": TIMES * EVERY,
            "profile": profile.model_dump(mode="json"),
            "sigma_rel": profile.sigma_rel,
            "dtype": "float32",
            "content_key": _hash("reconstruction", number),
            "plan": plan,
            "job_id": _job(number),
            "key": f"runs/{run}/reconstructions/{number}.safetensors",
            "size": 2**29,
            "sha256": _hash("reconstructed", number),
            "created_at": _EPOCH + number,
        }


def _bases() -> Iterator[dict[str, Any]]:
    """Those of times before the last, so that plans at the end still solve."""
    for index in range(4):
        vectors = [{"key": f"bases/{index}-{i}", "size": 2**29, "sha256": _hash("basis", index, i)} for i in range(10)]
        yield {
            "seq": index + 1,
            "id": f"basis-{index}",
            "run_id": WELL_KEPT,
            "num_images": EVERY * 4 * (index + 1),
            "sigma_rel_min": 0.02,
            "sigma_rel_max": 0.25,
            "tolerance": 1e-4,
            "content_key": _hash("basis", index),
            "plan": _basis_plan(index),
            "job_id": None,
            "vectors": vectors,
            "created_at": _EPOCH + index,
        }


def _basis_plan(index: int) -> dict[str, Any]:
    kept = _plan()["snapshots"][: 8 * (index + 1)]
    return BasisPlan(
        num_images=EVERY * 4 * (index + 1),
        sigma_rel_min=0.02,
        sigma_rel_max=0.25,
        tolerance=1e-4,
        error=1e-5,
        snapshots=tuple(StoredSnapshot(**{**s, "profile": Profile.model_validate(s["profile"])}) for s in kept),
        vectors=((1 / len(kept),) * len(kept),) * 10,
        variance=1e-3,
        exponent=1.0,
        rms=1.0,
        rounding={"float16": 2e-4},
        calibrated=True,
    ).model_dump(mode="json")


def _evaluations(size: Size) -> Iterator[dict[str, Any]]:
    recipe = EvaluationRecipe(metrics=("frechet",)).model_dump(mode="json")
    for number in range(5, size.jobs, 20):
        _, _, run = _described(size, number)
        yield {
            "seq": number // 20 + 1,
            "id": f"eval-{number:08d}",
            "run_id": run,
            "reconstruction_id": f"rec-{number:08d}",
            "recipe": recipe,
            "content_key": _hash("evaluation", number),
            "job_id": _job(number + 1),
            "figures": {"frechet": 0.5},
            "pictures_key": f"pictures/{number}.png",
            "created_at": _EPOCH + number,
        }
