"""The snapshots and bases of a run, from the store alone: what the catalog's rows say elsewhere. Torch-free."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.files.header import Header, read_header
from phema.shared.snapshots.files.tensor_compatibility import TensorLayout, first_difference, layouts_of
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.planning.calibration import Calibration, calibrate, snapshots_to_fit
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import basis_records_prefix, sha256_of_key, snapshots_prefix
from phema.shared.validation_sentences import sentence

Layouts = dict[str, TensorLayout]


@dataclass(frozen=True)
class RunContents:
    """What a run consisted of when its store was listed."""

    snapshots: tuple[StoredSnapshot, ...]
    """In order of time."""
    bases: tuple[StoredBasis, ...]
    skipped: dict[str, str]
    """Why each other file is not used, by key: it is damaged, foreign, or a second one of its time and profile."""


class ContentsReader:
    """Lists a run. Headers are read once: objects never change. Other processes may write and delete meanwhile."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._known: dict[str, StoredSnapshot] = {}
        self._probes: dict[str, bytes] = {}
        """By id of the snapshot. Empty where a file has none."""
        self._layouts: Layouts | None = None

    @property
    def layouts(self) -> Layouts | None:
        """Tensors of the run's snapshots; None before the first is known."""
        return self._layouts

    def read(self) -> RunContents:
        """List the store, and read the headers of new files. Raises SnapshotError, but not for damaged files."""
        infos = list(self._store.list(snapshots_prefix(self._run_id)))
        skipped: dict[str, str] = {}
        self._read_headers([info for info in infos if info.key not in self._known], skipped)
        found: dict[tuple[int, str], StoredSnapshot] = {}
        for info in infos:
            snapshot = self._known.get(info.key)
            if snapshot is None:
                continue
            if snapshot.size != info.size:
                skipped[info.key] = f"object {info.key} holds {info.size} bytes, {snapshot.size} were written"
                continue
            first = found.setdefault((snapshot.num_images, snapshot.profile.key), snapshot)
            if first is not snapshot:
                skipped[info.key] = f"object {info.key} has the time and the profile of {first.key}, which is used"
        snapshots = tuple(sorted(found.values(), key=lambda s: s.order))
        return RunContents(snapshots, tuple(self._bases(skipped)), skipped)

    def calibrate(self, inputs: Sequence[StoredSnapshot], update_images: int | None) -> Calibration:
        """See `calibration.calibrate`. The sample of the weights is in the header of files written without a service.

        Other files of a local folder are sampled now; those in a bucket would have to be read as a whole, so that
        usual values stand in.
        """
        probes = {}
        for snapshot in snapshots_to_fit(inputs):
            if not self._probes[snapshot.id]:
                self._probes[snapshot.id] = self._sampled(snapshot)
            probes[snapshot.id] = self._probes[snapshot.id]
        return calibrate(inputs, probes, update_images=update_images)

    def _sampled(self, snapshot: StoredSnapshot) -> bytes:
        path = self._store.local_path(snapshot.key)
        if path is None:
            return b""
        try:
            # A mapped file: only the pages with sampled weights are read.
            with path.open("rb") as file:
                return probe_of(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError, CorruptObject):
            return b""  # reading the file for the reconstruction says why

    def _read_headers(self, infos: Iterable[ObjectInfo], skipped: dict[str, str]) -> None:
        def read(info: ObjectInfo) -> Header | str | None:
            try:
                return read_header(self._store, info.key, size=info.size)
            except ObjectMissing:
                return None  # deleted since it was listed
            except CorruptObject as error:
                return str(error)

        with ThreadPoolExecutor(self._store.reads_in_flight, thread_name_prefix="headers") as pool:
            for info, header in zip(infos, pool.map(read, infos), strict=True):
                if isinstance(header, str):
                    skipped[info.key] = header
                elif header is not None and (reason := self._add(info, header)) is not None:
                    skipped[info.key] = f"object {info.key} {reason}"

    def _add(self, info: ObjectInfo, header: Header) -> str | None:
        """Remember the snapshot, or say why it is none of the run's."""
        metadata, sha256 = header.metadata, sha256_of_key(info.key)
        if metadata is None or metadata.kind != "snapshot" or metadata.run_id != self._run_id:
            return f"is not a snapshot of {self._run_id}"
        if sha256 is None:
            return "has no SHA-256 in its name, so that its bytes cannot be verified"
        layouts = layouts_of(header.tensors, metadata.buffers)
        self._layouts = self._layouts or layouts
        if (differing := first_difference(layouts, self._layouts)) is not None:
            return f"has tensor {differing.name} {differing.found}; in the files before it is {differing.expected}"
        snapshot = StoredSnapshot(
            f"snap-{sha256[:16]}", metadata.num_images, metadata.profile, info.key, info.size, sha256, metadata.dtype
        )
        self._known[info.key] = snapshot
        self._probes[snapshot.id] = header.probe
        return None

    def _bases(self, skipped: dict[str, str]) -> Iterable[StoredBasis]:
        for info in self._store.list(basis_records_prefix(self._run_id)):
            try:
                yield decode_basis(self._store.get(info.key), info.key)
            except ObjectMissing:
                pass  # deleted since it was listed
            except CorruptObject as error:
                skipped[info.key] = str(error)


def encode_basis(basis: StoredBasis) -> bytes:
    """The record of a finished basis."""
    document = {
        "id": basis.id,
        "plan": basis.plan.model_dump(mode="json"),
        "vectors": [{"key": v.key, "size": v.size, "sha256": v.sha256} for v in basis.vectors],
    }
    return json.dumps(document, sort_keys=True).encode()


def decode_basis(data: bytes, key: str) -> StoredBasis:
    """The basis that a record describes. Raises CorruptObject."""
    try:
        document = json.loads(data)
        plan = BasisPlan.model_validate(document["plan"])
        given = enumerate(document["vectors"])
        vectors = tuple(vector_of(document["id"], plan.num_images, index, vector) for index, vector in given)
        if len(vectors) != len(plan.vectors):
            raise ValueError(f"{len(vectors)} files for {len(plan.vectors)} vectors")
        return StoredBasis(str(document["id"]), plan, vectors)
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise CorruptObject(f"object {key} does not describe a basis: {problem}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptObject(f"object {key} does not describe a basis: {error}") from error


def vector_of(basis_id: str, num_images: int, index: int, stored: dict[str, Any]) -> StoredSnapshot:
    """Vector `index` of a basis; `stored` has its key, size and sha256."""
    return StoredSnapshot(
        id=f"{basis_id}-{index:02d}",
        num_images=num_images,
        profile=Profile(kind="basis", index=index),
        key=str(stored["key"]),
        size=int(stored["size"]),
        sha256=str(stored["sha256"]),
    )
