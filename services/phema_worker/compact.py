"""`compact` jobs: one pass over a run's snapshots writes the vectors of a basis.

For the actor this is a reconstruction with several outputs. Only the metadata of the files and the row differ.
"""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from phema.services.phema_worker.tasks import CompactTask, Done, Output
from phema.shared.catalog import Basis, Job, Transaction, submission_id
from phema.shared.snapshots.combining.aligned_inputs import PASS_VERSION
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import basis_key


def compact_task(tx: Transaction, job: Job) -> CompactTask | None:
    """The task of a `compact` job; None when the vectors exist. Raises NotFound."""
    basis = tx.bases.get(job.payload["basis_id"])
    if basis.vectors is not None:
        return None
    plan = basis.plan
    inputs = tuple(map(StoredSnapshot.of, plan["snapshots"]))
    lineage = lineage_of(plan)
    # The key contains a hash of everything that the bytes depend on, and of the job: an attempt continues the files of
    # the attempt before, and a job that is cleaned up never deletes another job's files.
    content = [job.id, PASS_VERSION, version("phema"), lineage]
    token = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    outputs = tuple(_output(basis, index, token, lineage) for index in range(len(plan["vectors"])))
    return CompactTask(submission_id(job.id, job.fence), inputs, outputs, basis_id=basis.id)


def lineage_of(plan: dict[str, Any]) -> dict[str, Any]:
    """Metadata of every vector's file: it describes the whole basis, so one file is enough to restore the plan."""
    snapshots = [{name: value for name, value in entry.items() if name != "id"} for entry in plan["snapshots"]]
    return {name: value for name, value in plan.items() if name != "num_images"} | {"snapshots": snapshots}


def record_basis(tx: Transaction, task: CompactTask, done: Done) -> dict[str, Any]:
    """Write the vectors into the row. Returns the fields of the job's result."""
    vectors = [{"key": w.key, "size": w.size, "sha256": w.sha256} for w in done.written]
    tx.bases.complete(task.basis_id, vectors)
    return {"vectors": len(vectors), "bytes_read": task.bytes_to_read, "seconds": done.seconds}


def _output(basis: Basis, index: int, token: str, lineage: dict[str, Any]) -> Output:
    return Output(
        result_id=basis.id,
        num_images=basis.num_images,
        key=basis_key(basis.run_id, basis.id, index, token),
        coefficients=tuple(basis.plan["vectors"][index]),
        dtype="float32",
        profile=Profile(kind="basis", index=index),
        lineage=lineage,
    )
