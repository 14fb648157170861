"""`compact` jobs: one pass over a run's snapshots writes the vectors of a basis.

For the actor this is a reconstruction with several outputs. Only the metadata of the files and the row differ.
"""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.tasks import CompactTask, Output
from phema.shared.catalog import Basis, Job, Transaction, submission_id
from phema.shared.snapshots.combining.aligned_inputs import PASS_VERSION
from phema.shared.snapshots.planning.basis_plan import BasisPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import basis_key


def compact_task(tx: Transaction, job: Job) -> CompactTask | None:
    """The task of a `compact` job; None when the vectors exist. Raises NotFound."""
    basis = tx.bases.get(job.payload["basis_id"])
    if basis.vectors is not None:
        return None
    plan = BasisPlan.model_validate(basis.plan)
    lineage = plan.lineage()
    # As with reconstructions, the key names all that the bytes depend on, and the job: an attempt goes on with what the
    # one before left, and the end of one job takes nothing from another.
    content = [job.id, PASS_VERSION, version("phema"), lineage]
    token = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    outputs = tuple(_output(basis, index, vector, token, lineage) for index, vector in enumerate(plan.vectors))
    return CompactTask(submission_id(job.id, job.fence), plan.snapshots, outputs, basis_id=basis.id)


def record_basis(tx: Transaction, task: CompactTask, done: Done) -> dict[str, Any]:
    """Write the vectors into the row. Returns the fields of the job's result."""
    vectors = [{"key": w.key, "size": w.size, "sha256": w.sha256} for w in done.written]
    tx.bases.complete(task.basis_id, vectors)
    return {"vectors": len(vectors), "bytes_read": task.bytes_to_read, "seconds": done.seconds}


def _output(basis: Basis, index: int, coefficients: tuple[float, ...], token: str, lineage: dict[str, Any]) -> Output:
    return Output(
        result_id=basis.id,
        num_images=basis.num_images,
        key=basis_key(basis.run_id, basis.id, index, token),
        coefficients=coefficients,
        dtype="float32",
        profile=Profile(kind="basis", index=index),
        lineage=lineage,
    )
