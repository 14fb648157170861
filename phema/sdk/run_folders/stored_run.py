"""`phema.open`: choose EMA lengths of a run whose snapshots lie in a folder or bucket, without a service.

Planning needs NumPy alone; torch is imported when weights are combined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from threading import Lock
from typing import Any, get_args

from phema.client import average_models
from phema.client.reconstruction_requests import Profiles, Tensors, profile_bodies, profile_of, request_body
from phema.errors import InvalidArgument
from phema.sdk.run_folders.output_files import output_paths, staged
from phema.sdk.run_folders.results import (
    DamagedFile,
    ReconstructedFile,
    Verification,
    basis_answer,
    basis_plan_answer,
    plan_answer,
)
from phema.sdk.run_folders.run_contents import ContentsReader, RunContents
from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.recipes.run_config import hash_of_document
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.files.run_document import RunDocument
from phema.shared.snapshots.planning import planner
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis, plan_basis
from phema.shared.snapshots.planning.candidate_snapshots import without_raw
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.reconstruction_times import (
    PlanError,
    last_sampled,
    latest_complete,
)
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.locations import Location
from phema.shared.snapshots.stores.verification import verify
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.tensor_patterns import check_patterns

Progress = Callable[[int, int], None]
"""Called with the bytes that are read, and the bytes to read."""
_log = logging.getLogger(__name__)


def _ignore(done: int, total: int) -> None:
    """Progress callback that does nothing."""


class StoredRun:
    """A run in a folder or bucket. Every call looks at the store anew: a training may add snapshots meanwhile."""

    def __init__(self, location: Location, store: ObjectStore, described: RunDocument) -> None:
        """Use `phema.open`."""
        self.location, self.store = location, store
        self.id, self.name, self.origin = described.id, described.name, described.origin
        self.config = described.config
        self.total_images = described.total_images
        """The planned length of the training; None when it was not given."""
        self._reader = ContentsReader(store, described.id)
        self._reported: set[str] = set()

    def __repr__(self) -> str:
        return f"<phema run {self.name} ({self.id}) in {self.location}>"

    @property
    def config_hash(self) -> str:
        return hash_of_document(self.config)

    def snapshots(self) -> tuple[StoredSnapshot, ...]:
        """The stored snapshots in order of time. Files that cannot be used are in `skipped`, and are logged."""
        return self._contents().snapshots

    def bases(self) -> list[average_models.Basis]:
        """The bases that `compact` has written."""
        return [basis_answer(self.id, basis) for basis in self._contents().bases]

    @property
    def skipped(self) -> dict[str, str]:
        """Why files below the run are not used, by key: damaged, foreign, or a second one of its time and profile."""
        return dict(self._contents().skipped)

    @property
    def num_images(self) -> int:
        """The time of the latest snapshot; 0 without one."""
        return max((s.num_images for s in self.snapshots()), default=0)

    def plan(
        self,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        regularize: bool = True,
        tolerance: float | None = None,
    ) -> average_models.Plan:
        """What `reconstruct` would read, and the predicted errors. Arguments as `reconstruct`. Reads no weights."""
        wanted = _wanted(sigma_rel, profiles, tensors, num_images, "float32", regularize, tolerance)
        return plan_answer(self._plan(wanted, num_images, regularize, tolerance))

    def reconstruct(
        self,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        output: str | PathLike[str],
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        dtype: StoredDtype = "float32",
        regularize: bool = True,
        tolerance: float | None = None,
        on_progress: Progress = _ignore,
    ) -> list[ReconstructedFile]:
        """Reconstruct averages in one pass over the snapshots, and write them to `output`.

        `output` is a file that ends with .safetensors, or a folder. A file appears when it is complete; one of the same
        name is replaced. `num_images`: None is the latest time at which every average is stored. The other arguments
        are those of `Client.reconstruct`.

        Every snapshot is verified while it is read. Raises phema.errors.InvalidArgument, CorruptObject (with the name
        of the damaged file) and the store's other errors.
        """
        if dtype not in get_args(StoredDtype):
            raise InvalidArgument(f"dtype {dtype!r} is unknown; allowed: {', '.join(get_args(StoredDtype))}")
        wanted = _wanted(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        return self.write(
            wanted,
            num_images,
            output=output,
            dtype=dtype,
            regularize=regularize,
            tolerance=tolerance,
            on_progress=on_progress,
        )

    def write(
        self,
        wanted: tuple[Profile, ...],
        num_images: int | None,
        *,
        output: str | PathLike[str],
        dtype: StoredDtype,
        regularize: bool = True,
        tolerance: float | None = None,
        lineage: Mapping[str, Any] | None = None,
        on_progress: Progress = _ignore,
    ) -> list[ReconstructedFile]:
        """As `reconstruct`. `lineage`: entries that the files' lineage holds beside the plan."""
        planned = self._plan(wanted, num_images, regularize, tolerance)
        made = [planned_output.profile for planned_output in planned.outputs]
        paths = output_paths(output, self.name, planned.num_images, made, dtype)
        from phema.shared.snapshots.combining.reconstruct import reconstruct
        from phema.shared.snapshots.combining.wanted_output import WantedOutput, output_specs

        with staged(paths) as files:
            outputs = [
                WantedOutput(
                    num_images=planned.num_images,
                    key=key,
                    coefficients=output.coefficients,
                    dtype=dtype,
                    profile=output.profile,
                    lineage=StoredPlan.of(planned, output, regularize=regularize).lineage() | dict(lineage or {}),
                    tensors=tuple((tensor.pattern, tensor.coefficients) for tensor in output.tensors),
                )
                for key, output in zip(files.keys, planned.outputs, strict=True)
            ]
            specs = output_specs(self.store, planned.snapshots[-1], outputs)
            try:
                infos = reconstruct(
                    self.store,
                    planned.snapshots,
                    specs,
                    memory_bytes=Settings().reconstruct_memory_bytes,
                    progress=on_progress,
                    into=files.store,
                )
            except ValueError as error:
                raise InvalidArgument(str(error)) from error
            files.publish()
        return [
            ReconstructedFile(
                path=path,
                num_images=planned.num_images,
                profile=output.profile,
                dtype=dtype,
                size=info.size,
                sha256=str(info.sha256),
                **vars(output.errors),
                advice=output.advice,
            )
            for path, output, info in zip(paths, planned.outputs, infos, strict=True)
        ]

    def plan_basis(
        self,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
        profiles: Profiles = (),
    ) -> average_models.BasisPlan:
        """What `compact` would read and store. Reads no weights."""
        planned, made = self._plan_basis(num_images, sigma_rel_min, sigma_rel_max, tolerance, profiles)
        return basis_plan_answer(planned, None if made is None else made.id)

    def compact(
        self,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
        profiles: Profiles = (),
        on_progress: Progress = _ignore,
    ) -> average_models.Basis:
        """Write a basis beside the snapshots: a few vectors, from which later plans read instead of all snapshots.

        Arguments and result as `Client.compact`. A finished basis that covers the request is returned. A call after
        one that was killed goes on with its work. Raises phema.errors.InvalidArgument and SnapshotError.
        """
        planned, finished = self._plan_basis(num_images, sigma_rel_min, sigma_rel_max, tolerance, profiles)
        if finished is None:
            from phema.sdk.run_folders.compaction import write_basis

            memory = Settings().reconstruct_memory_bytes
            finished = write_basis(self.store, self.id, planned, memory_bytes=memory, progress=on_progress)
        return basis_answer(self.id, finished)

    def verify(self, on_progress: Progress = _ignore) -> Verification:
        """Read every snapshot and every vector of a basis, and compare their bytes with what was written.

        Files that others delete meanwhile are not damage. Raises SnapshotError when the store cannot be read.
        """
        contents = self._reader.read()
        files = [*contents.snapshots, *(vector for basis in contents.bases for vector in basis.vectors)]
        total, done, lock = sum(file.size for file in files), 0, Lock()

        def check(file: StoredSnapshot) -> DamagedFile | None:
            nonlocal done
            found = None
            try:
                verify(self.store, file.key, size=file.size, sha256=file.sha256)
            except CorruptObject as error:
                found = DamagedFile(file.key, str(error))
            except ObjectMissing as error:
                found = DamagedFile(file.key, str(error)) if file.profile.kind == "basis" else None
            with lock:
                done += file.size
                on_progress(done, total)
            return found

        damaged = [DamagedFile(key, reason) for key, reason in contents.skipped.items()]
        with ThreadPoolExecutor(self.store.reads_in_flight, thread_name_prefix="verify") as pool:
            damaged += [found for found in pool.map(check, files) if found is not None]
        return Verification(len(files) + len(contents.skipped), total, tuple(damaged))

    def _plan(
        self, wanted: tuple[Profile, ...], num_images: int | None, regularize: bool, tolerance: float | None
    ) -> Plan:
        contents = self._contents()
        self._refuse_empty(contents)
        patterns = [("tensors", profile.tensors) for profile in wanted if profile.tensors]
        try:
            if contents.snapshots:
                check_patterns(patterns, self.store, contents.snapshots)
            return planner.plan(
                without_raw(contents.snapshots, regularize=regularize),
                wanted,
                num_images=last_sampled(wanted) or self._latest(contents) if num_images is None else num_images,
                regularize=regularize,
                tolerance=tolerance,
                bases=contents.bases,
                update_images=self._update_images,
                calibrator=lambda inputs: self._reader.calibrate(inputs, self._update_images),
            )
        except (PlanError, PosthocError, InvalidFields) as error:
            raise InvalidArgument(str(error)) from error

    def _plan_basis(
        self,
        num_images: int | None,
        sigma_rel_min: float,
        sigma_rel_max: float,
        tolerance: float,
        profiles: Profiles,
    ) -> tuple[BasisPlan, StoredBasis | None]:
        """The plan of a basis, and the finished basis that it is, if there is one. Raises InvalidArgument."""
        others = [Profile.model_validate(given) for given in profile_bodies(profiles)]
        if unfit := next((p for p in others if p.kind in ("basis", "per_tensor") or p.last_times is not None), None):
            raise InvalidArgument(f"profiles names {unfit.label}; give profiles of a single, definite average")
        contents = self._contents()
        self._refuse_empty(contents, snapshots=True)
        time = self._latest(contents) if num_images is None else num_images
        covering = [
            basis
            for basis in contents.bases
            if basis.plan.covers(
                time,
                sigma_rel_min=sigma_rel_min,
                sigma_rel_max=sigma_rel_max,
                tolerance=tolerance,
                profiles=others,
            )
        ]
        if covering:
            made = min(covering, key=lambda found: len(found.vectors))
            return made.plan, made
        try:
            planned = plan_basis(
                contents.snapshots,
                num_images=time,
                sigma_rel_min=sigma_rel_min,
                sigma_rel_max=sigma_rel_max,
                tolerance=tolerance,
                profiles=others,
                calibrator=lambda inputs: self._reader.calibrate(inputs, self._update_images),
            )
        except (PlanError, PosthocError, WeightingError) as error:
            raise InvalidArgument(str(error)) from error
        return planned, None

    @property
    def _update_images(self) -> int | None:
        """Images between two updates of the averages; None when unknown."""
        return self.config.get("batch_size") if self.origin == "trained" else None

    def _latest(self, contents: RunContents) -> int:
        widths = self.config.get("ema_sigma_rels", ()) if self.origin == "trained" else ()
        found = latest_complete(contents.snapshots, {Profile.power(width).key for width in widths})
        return max(basis.num_images for basis in contents.bases) if found is None else found

    def _refuse_empty(self, contents: RunContents, *, snapshots: bool = False) -> None:
        if contents.snapshots or (contents.bases and not snapshots):
            return
        skipped = f"; {len(contents.skipped)} files cannot be used" if contents.skipped else ""
        raise InvalidArgument(f"run {self.name} in {self.location} has no snapshots yet{skipped}")

    def _contents(self) -> RunContents:
        contents = self._reader.read()
        for key, reason in contents.skipped.items():
            if key not in self._reported:
                self._reported.add(key)
                _log.warning("a file is not used: %s", reason)
        return contents


def _wanted(
    sigma_rel: float | Sequence[float] | None,
    profiles: Profiles | None,
    tensors: Tensors | None,
    num_images: int | None,
    dtype: str,
    regularize: bool,
    tolerance: float | None,
) -> tuple[Profile, ...]:
    """The profile of each output, in order. Raises InvalidArgument."""
    body = request_body(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
    if tolerance is not None and not tolerance > 0:
        raise InvalidArgument(f"tolerance {tolerance:g} must be above 0")
    given: list[Any] = body.get("sigma_rel") or body["profiles"]
    field = "sigma_rel" if "sigma_rel" in body else "profiles"
    plain = tuple(profile_of(f"{field}[{i}]", one) for i, one in enumerate(given))
    if tensors is None:
        return plain
    if len(plain) != 1:
        raise InvalidArgument(f"tensors goes with exactly one profile for all other tensors, got {len(plain)}")
    if plain[0].kind == "per_tensor":
        raise InvalidArgument("tensors and a per_tensor profile both name tensors; give one of them")
    return (profile_of("tensors", {"kind": "per_tensor", "default": plain[0], "tensors": body["tensors"]}),)
