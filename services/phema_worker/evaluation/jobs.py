"""From rows to the tasks of evaluations and back. Every function runs inside the caller's transaction.

An `evaluate` job is claimed several times. First it is prepared, and its missing parts become `draw` jobs, for which it
waits in the queue. When they have ended, the next claim scores them.
"""

from __future__ import annotations

from typing import Any

from phema.services.phema_worker.evaluation.parts import (
    Part,
    cut,
    drawing_key,
    grid_part,
    part_key,
    part_of_key,
    part_size,
)
from phema.services.phema_worker.evaluation.tasks import (
    Drawn,
    DrawTask,
    Network,
    Prepared,
    PrepareTask,
    Scored,
    ScoreTask,
    StoredPart,
    Weights,
)
from phema.services.phema_worker.finished_weights import ImpossibleJob, finished_weights
from phema.shared.catalog import (
    Evaluation,
    Job,
    JobKind,
    JobState,
    SamplePart,
    Transaction,
    content_key,
    submission_id,
)
from phema.shared.metrics.figures import FigureValue
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.snapshots.stores.object_keys import archive_key, part_object_key, pictures_key


def prepare_task(tx: Transaction, job: Job) -> PrepareTask | None:
    """The first task of an `evaluate` job; None when it has figures. Raises ImpossibleJob, NotFound."""
    row = tx.evaluations.get(job.payload["evaluation_id"])
    if row.figures is not None:
        return None
    return PrepareTask(submission_id(job.id, job.fence), row.id, row.run_id, _network(tx, row))


def score_task(tx: Transaction, job: Job, task: PrepareTask, prepared: Prepared) -> ScoreTask | None:
    """The last task of an `evaluate` job. None when parts are missing: their jobs are queued, and the job waits.

    Locks the run. Raises LeaseLost, and ImpossibleJob when a part has failed.
    """
    parts = _find_parts(tx, task, prepared)
    if any(part.result is None for part in parts):
        _wait_for(tx, job, parts)
        return None
    # Until the figures are there, nobody removes the parts.
    tx.leases.set_needs(job.id, job.fence, [part.job_id for part in parts if part.job_id is not None])
    stored = [_stored(part) for part in parts]
    token = submission_id(job.id, job.fence)
    keeps = EvaluationRecipe.model_validate(task.network.recipe).keep_pictures
    return ScoreTask(
        token=token,
        evaluation_id=task.evaluation_id,
        network=task.network,
        extractors=prepared.extractors,
        fingerprint=prepared.fingerprint,
        parts=tuple(stored[1:]),
        grid=stored[0],
        pictures_key=pictures_key(task.evaluation_id, token),
        archive_key=archive_key(task.evaluation_id, token) if keeps else None,
    )


def draw_task(tx: Transaction, job: Job) -> DrawTask | None:
    """The task of a `draw` job; None when the part is stored. Raises NotFound."""
    row = tx.sample_parts.get(job.payload["part_id"])
    if row.result is not None:
        return None
    request = row.request
    token = submission_id(job.id, job.fence)
    return DrawTask(
        token=token,
        part_id=row.id,
        network=_network_of(request["network"]),
        extractors=request["extractors"],
        fingerprint=request["fingerprint"],
        first=request["first"],
        count=request["count"],
        grid=request["grid"],
        key=part_object_key(row.id, token),
    )


def record_part(tx: Transaction, task: DrawTask, done: Drawn) -> dict[str, Any]:
    """Write the part into its row. Returns the fields of the job's result."""
    (written,) = done.written
    speed = {"seconds": done.seconds, "busy_seconds": done.busy_seconds}
    tx.sample_parts.complete(task.part_id, {"key": written.key, "size": written.size, "sha256": written.sha256} | speed)
    return {"num_sampled": done.num_sampled, **speed}


def record_figures(tx: Transaction, task: ScoreTask, done: Scored) -> dict[str, Any]:
    """Write the figures into the evaluation's row. Returns the fields of the job's result."""
    archive = done.written[1] if task.archive_key is not None else None
    figures = done.figures
    tx.evaluations.complete(
        task.evaluation_id,
        {name: figure.value for name, figure in figures.items()},
        task.pictures_key,
        errors={name: error for name, figure in figures.items() if (error := figure.standard_error) is not None},
        replicates={name: list(figure.replicates) for name, figure in figures.items() if _finite(figure)},
        provenance=done.provenance,
        archive=None if archive is None else vars(archive),
    )
    num_sampled = sum(part.count for part in (*task.parts, task.grid))
    return {"num_sampled": num_sampled, "seconds": done.seconds}


def part_objects(tx: Transaction, task: DrawTask) -> set[str]:
    """Key of the finished object in the part's row."""
    result = tx.sample_parts.get(task.part_id).result
    return set() if result is None else {result["key"]}


def evaluation_objects(tx: Transaction, task: ScoreTask) -> set[str]:
    """Keys of the finished objects in the evaluation's row."""
    row = tx.evaluations.get(task.evaluation_id)
    keys = {row.pictures_key, (row.archive or {}).get("key")}
    return {key for key in keys if key is not None}


def report_part(tx: Transaction, job: Job) -> None:
    """Show in the waiting evaluation how many of its parts are drawn."""
    if job.parent_id is not None:
        done, total = tx.jobs.needed(job.parent_id)
        tx.jobs.show_progress(job.parent_id, done / max(total, 1) * _SHARE_OF_PARTS, _waiting(done, total))


_SHARE_OF_PARTS = 0.95
"""Progress of an evaluation when all its parts are drawn."""


def _waiting(done: int, total: int) -> str:
    return f"drawing pictures: {done} of {total} parts are done"


def _find_parts(tx: Transaction, task: PrepareTask, prepared: Prepared) -> list[SamplePart]:
    """The grid, then the parts in the order of their seeds."""
    extractors = prepared.extractors
    recipe = EvaluationRecipe.model_validate(task.network.recipe)
    drawing = drawing_key(task.network, extractors)
    tx.runs.lock(task.run_id)
    known = (part_of_key(key) for key in tx.sample_parts.keys(drawing))
    # A metric without extractor, such as the held-out loss, sees no drawn pictures.
    num_samples = recipe.num_samples if extractors or recipe.keep_pictures else 0
    parts = [grid_part(recipe), *cut(num_samples, known, part_size(task.network.config["network"]["img_resolution"]))]
    shared = {"network": _document(task.network), "extractors": extractors, "fingerprint": prepared.fingerprint}
    requests = [(part_key(drawing, part), _request(part, shared)) for part in parts]
    return tx.sample_parts.find_or_create_all(task.run_id, drawing, requests)


def _wait_for(tx: Transaction, job: Job, parts: list[SamplePart]) -> None:
    """Queue the missing parts, and the job behind them. Raises ImpossibleJob when a part has failed for this job."""
    missing = [part for part in parts if part.result is None]
    for part in missing:
        failed = part.job
        if failed is not None and failed.state is JobState.FAILED and failed.parent_id == job.id:
            raise ImpossibleJob(str(failed.error))
    needs = []
    for part in missing:
        if part.needs_job:
            made, _ = tx.jobs.enqueue(
                JobKind.DRAW,
                payload={"part_id": part.id},
                content_key=content_key("draw", part.id),
                run_id=job.run_id,
                max_attempts=job.max_attempts,
                priority=job.priority,
                parent_id=job.id,
            )
            tx.sample_parts.assign([part.id], made.id)
            needs.append(made.id)
        else:
            needs.append(str(part.job_id))
    drawn = len(parts) - len(missing)
    # All parts are needed, so that progress counts those that were there before.
    needs += [part.job_id for part in parts if part.result is not None and part.job_id is not None]
    message = _waiting(drawn, len(parts))
    tx.leases.wait_for(job.id, job.fence, needs, message=message, progress=drawn / len(parts) * _SHARE_OF_PARTS)


def _request(part: Part, shared: dict[str, Any]) -> dict[str, Any]:
    return {**shared, "first": part.first, "count": part.count, "grid": part.grid}


def _network(tx: Transaction, row: Evaluation) -> Network:
    guided = row.recipe["guidance"] != 1
    return Network(
        weights=finished_weights(row.reconstruction, "reconstruction"),
        guide=finished_weights(tx.reconstructions.get(row.recipe["guide_id"]), "guide") if guided else None,
        config=tx.runs.get(row.run_id).config,
        recipe=row.recipe,
    )


def _document(network: Network) -> dict[str, Any]:
    guide = network.guide
    return {
        "weights": vars(network.weights),
        "guide": None if guide is None else vars(guide),
        "config": network.config,
        "recipe": network.recipe,
    }


def _network_of(document: dict[str, Any]) -> Network:
    guide = document["guide"]
    return Network(
        Weights(**document["weights"]),
        None if guide is None else Weights(**guide),
        document["config"],
        document["recipe"],
    )


def _stored(part: SamplePart) -> StoredPart:
    result = part.result
    assert result is not None
    return StoredPart(result["key"], result["sha256"], part.request["count"], result["seconds"], result["busy_seconds"])


def _finite(figure: FigureValue) -> bool:
    """JSON has no infinity. A figure without one block of pictures may be infinite where the figure is not."""
    return all(abs(value) < float("inf") for value in figure.replicates)
