"""From the row of a preview to its task, and from the finished task to the row. Inside the caller's transaction."""

from __future__ import annotations

from typing import Any

from phema.services.phema_worker.finished_weights import finished_weights
from phema.services.phema_worker.tasks import Output, PreviewDone, PreviewTask
from phema.shared.catalog import Job, Transaction, submission_id
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import preview_key


def preview_task(tx: Transaction, job: Job) -> PreviewTask | None:
    """The task of a `preview` job; None when the pictures exist. Raises ImpossibleJob, NotFound."""
    row = tx.previews.get(job.payload["preview_id"])
    if row.result is not None:
        return None
    plan, request = StoredPlan.model_validate(row.plan), SampleRequest.model_validate(row.request)
    guided = request.guidance != 1 and request.guide_id is not None
    # The key contains the submission id, so no attempt writes another's object.
    token = submission_id(job.id, job.fence)
    return PreviewTask(
        token=token,
        preview_id=row.id,
        inputs=tuple(entry.snapshot() for entry in plan.snapshots),
        weights=Output(
            result_id=row.id,
            num_images=row.num_images,
            key=row.id,  # never stored
            coefficients=plan.coefficients,
            dtype="float32",
            profile=Profile.model_validate(row.profile),
            lineage=plan.lineage(),
            tensors=tuple((tensor.pattern, tensor.coefficients) for tensor in plan.tensors or ()),
        ),
        guide=finished_weights(tx.reconstructions.get(str(request.guide_id)), "guide") if guided else None,
        config=tx.runs.get(row.run_id).config,
        request=row.request,
        key=preview_key(row.id, token),
    )


def named_preview_keys(tx: Transaction, task: PreviewTask) -> set[str]:
    """Key of the file that the row names, if it names one."""
    result = tx.previews.get(task.preview_id).result
    return set() if result is None else {result["key"]}


def record_preview(tx: Transaction, task: PreviewTask, done: PreviewDone) -> dict[str, Any]:
    """Write the file into the row. Returns the fields of the job's result."""
    (file,) = done.written
    measured = {
        "num_sampled": done.num_sampled,
        "seconds": done.seconds,
        "bytes_read": done.bytes_read,
        "read_seconds": done.read_seconds,
        "gflops": done.gflops,
        "draw_seconds": done.draw_seconds,
    }
    tx.previews.complete(task.preview_id, {"key": file.key, "size": file.size, "sha256": file.sha256, **measured})
    return measured
