"""From the row of a sample request to its task, and from the finished task to the row. Inside the caller's
transaction."""

from __future__ import annotations

from typing import Any

from phema.services.phema_worker.finished_weights import finished_weights
from phema.services.phema_worker.tasks import SampleDone, SampleTask
from phema.shared.catalog import Job, Transaction, submission_id
from phema.shared.recipes.sample_request import SUFFIX, SampleRequest
from phema.shared.snapshots.stores.object_keys import sample_key


def sample_task(tx: Transaction, job: Job) -> SampleTask | None:
    """The task of a `sample` job; None when the file exists. Raises ImpossibleJob, NotFound."""
    row = tx.samples.get(job.payload["sample_id"])
    if row.result is not None:
        return None
    request = SampleRequest.model_validate(row.request)
    guided = request.guidance != 1 and request.guide_id is not None
    # The key contains the submission id, so no attempt writes another's object.
    token = submission_id(job.id, job.fence)
    return SampleTask(
        token=token,
        sample_id=row.id,
        weights=finished_weights(row.reconstruction, "reconstruction"),
        guide=finished_weights(tx.reconstructions.get(str(request.guide_id)), "guide") if guided else None,
        config=tx.runs.get(row.run_id).config,
        request=row.request,
        key=sample_key(row.id, token, SUFFIX[request.format]),
    )


def named_sample_keys(tx: Transaction, task: SampleTask) -> set[str]:
    """Key of the file that the row names, if it names one."""
    result = tx.samples.get(task.sample_id).result
    return set() if result is None else {result["key"]}


def record_sample(tx: Transaction, task: SampleTask, done: SampleDone) -> dict[str, Any]:
    """Write the file into the row. Returns the fields of the job's result."""
    (file,) = done.written
    drawn = {"num_sampled": done.num_sampled, "seconds": done.seconds}
    tx.samples.complete(task.sample_id, {"key": file.key, "size": file.size, "sha256": file.sha256, **drawn})
    return drawn
