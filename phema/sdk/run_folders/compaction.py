"""Computes a basis in a folder or bucket: the vectors first, then the record that makes plans use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version

from phema.sdk.run_folders.run_contents import decode_basis, encode_basis, vector_of
from phema.shared.snapshots.combining.aligned_inputs import PASS_VERSION
from phema.shared.snapshots.combining.reconstruct import reconstruct
from phema.shared.snapshots.combining.wanted_output import WantedOutput, output_specs
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import basis_key, basis_record_key


def write_basis(
    store: ObjectStore,
    run_id: str,
    plan: BasisPlan,
    *,
    memory_bytes: int,
    progress: Callable[[int, int], None],
) -> StoredBasis:
    """Write the vectors of a planned basis into the store of its snapshots, in one pass.

    Id and keys follow from the plan. A process that starts over after another was killed therefore goes on with what
    that one left, and two processes that do the same write the same objects. Raises SnapshotError and ValueError.
    """
    lineage = plan.lineage()
    content = json.dumps([PASS_VERSION, version("phema"), plan.num_images, lineage], sort_keys=True)
    token = sha256(content.encode()).hexdigest()[:16]
    basis_id = f"basis-{token}"
    wanted = [
        WantedOutput(
            num_images=plan.num_images,
            key=basis_key(run_id, basis_id, index, token),
            coefficients=coefficients,
            dtype="float32",
            profile=Profile(kind="basis", index=index),
            lineage=lineage,
        )
        for index, coefficients in enumerate(plan.vectors)
    ]
    specs = output_specs(store, plan.snapshots[-1], wanted)
    written = reconstruct(store, plan.snapshots, specs, memory_bytes=memory_bytes, progress=progress, resume=True)
    vectors = tuple(
        vector_of(basis_id, plan.num_images, index, {"key": info.key, "size": info.size, "sha256": info.sha256})
        for index, info in enumerate(written)
    )
    record = encode_basis(StoredBasis(basis_id, plan, vectors))
    key = basis_record_key(run_id, basis_id)
    store.put(key, record)
    return decode_basis(record, key)
