"""`phema.SnapshotWriter`: write snapshots of your own training loop in the background, with or without a service."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, get_args, overload

import torch
import torch.distributed
from pydantic import ValidationError
from torch import Tensor

from phema.client.client import Client
from phema.client.response_models import Run
from phema.errors import InvalidArgument, ServiceError, ServiceUnreachable
from phema.sdk.snapshot_destinations import (
    FolderDestination,
    RunDescription,
    ServiceDestination,
    SnapshotDestination,
)
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.averaging.named_tensors import is_sharded, whole
from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.snapshots.errors import CorruptObject, StoreUnreachable
from phema.shared.snapshots.files.header import SnapshotMetadata, StoredDtype
from phema.shared.snapshots.files.snapshot_file import DTYPE_NAMES, encode
from phema.shared.snapshots.files.tensor_compatibility import TensorLayout, first_difference
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.background_uploader import BackgroundUploader, UploadCounts
from phema.shared.snapshots.stores.hashed_bytes import HashedBytes
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.locations import is_location
from phema.shared.snapshots.stores.object_keys import snapshot_key
from phema.shared.validation_sentences import sentence

Origin = Literal["external", "imported"]
TRANSIENT = (StoreUnreachable, CorruptObject, ServiceUnreachable, ServiceError)
_log = logging.getLogger(__name__)


class SnapshotWriter:
    """Writes averages of any module's weights as snapshots of a run. The EMA length is chosen afterwards.

    `run` says where the snapshots go. A path with a `/`, a `Path`, or a URL (`s3://bucket/prefix`, `file:///folder`)
    is a folder or bucket. It needs no service: `phema.open` reads it, and `phema runs adopt` makes it a run of a
    service later. Any other text is the name of a run of a service; so is a `Run` that is open.

    A run of this name or folder and the same `config` is opened, so a restarted training script continues its run;
    otherwise the run is created. `config` describes the training and may be anything that JSON can hold.
    `total_images` is the planned length of the training, if known. `name` is the name of a run in a folder; None is
    the folder's own name.

    `store` and `client` are those of a service. `store` must be the service's own object store: a URL or an open store.
    None uses the settings of the environment (`PHEMA_STORE_URL`, `PHEMA_STATE_DIR`), as `phema up` does. `client` is a
    client of the service; None creates `phema.Client()`. S3 uses the `PHEMA_S3_*` settings.

    `save` copies the weights to the CPU and returns. One background thread encodes, uploads and registers them in
    order; a snapshot is registered after its upload. If the store or the service is unreachable, the thread retries
    for about one minute. The next call, or the end of the block, raises the error of a failed snapshot. If the process
    dies, no snapshot is partly registered: save the unfinished snapshots again. Saving a registered snapshot does
    nothing.

    With `torch.distributed`, create a writer and call `save` in every process. The process with rank 0 writes; the
    others take part in gathering sharded weights.

    Raises phema.PhemaError, and phema.shared.snapshots.SnapshotError if the store cannot be used.
    """

    def __init__(
        self,
        run: str | PathLike[str] | Run,
        store: str | ObjectStore | None = None,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        total_images: int | None = None,
        origin: Origin = "external",
        client: Client | None = None,
        max_pending: int = 4,
    ) -> None:
        self.run: Run | None = None
        """The run in its state when it was opened; None in processes that do not write."""
        self._uploader: BackgroundUploader | None = None
        self._closed = False
        self._layouts: dict[str, TensorLayout] = {}
        if not _writes():
            return
        if origin not in get_args(Origin):
            raise InvalidArgument(f"origin {origin!r} is unknown; allowed: {', '.join(get_args(Origin))}")
        described = RunDescription(config or {}, total_images, origin)
        self._destination: SnapshotDestination
        if not isinstance(run, Run) and is_location(run):
            if store is not None or client is not None:
                raise InvalidArgument(f"store and client belong to a service; {run} is a folder or bucket without one")
            self._destination = FolderDestination(run, name, described)
        elif name is not None:
            raise InvalidArgument(f"name {name!r} is for a folder or bucket; the run of a service is given as run")
        else:
            self._destination = ServiceDestination(run if isinstance(run, Run) else str(run), store, client, described)
        self.run = self._destination.run
        self._known = self._destination.known
        self._layouts = self._destination.layouts
        self._uploader = BackgroundUploader(
            self._destination.store, max_pending=max_pending, transient=TRANSIENT, on_retry=_report_retry
        )

    @overload
    def save(self, averages: PowerFunctionEMA, /, *, dtype: StoredDtype = "float16") -> None: ...

    @overload
    def save(
        self,
        num_images: int,
        averages: PowerFunctionEMA | Mapping[str, Tensor],
        *,
        profile: Profile | Mapping[str, Any] | float | None = None,
        dtype: StoredDtype = "float16",
        buffers: Iterable[str] = (),
    ) -> None: ...

    def save(
        self,
        num_images: int | PowerFunctionEMA,
        averages: PowerFunctionEMA | Mapping[str, Tensor] | None = None,
        *,
        profile: Profile | Mapping[str, Any] | float | None = None,
        dtype: StoredDtype = "float16",
        buffers: Iterable[str] = (),
    ) -> None:
        """Save averages: one file per average of a PowerFunctionEMA, or one for a mapping.

        `save(ema)` saves them at the time of their last update. It does nothing if that time is saved already, so it
        may be called more often than `ema.update`. `save(num_images, ema)` also checks that time.

        A mapping (name to tensor, whole or sharded) needs its `num_images` and its `profile`: a sigma_rel, or a
        `phema.Profile` of any kind, such as `Profile(kind="raw")` for the weights themselves. `buffers` names the
        tensors of the mapping that are not averaged; these and integer tensors are stored exactly. `dtype` is the dtype
        of the stored weights.

        A snapshot that is registered for this time and profile is not written again. Blocks while `max_pending` files
        are not finished. Raises InvalidArgument, and the error of an earlier file that failed.
        """
        self._check_open()
        if isinstance(num_images, PowerFunctionEMA):
            if averages is not None:
                raise InvalidArgument("averages are given twice; give save(ema), or save(num_images, ema)")
            averages = num_images
            num_images = averages.num_images
            if not num_images:
                raise InvalidArgument("averages have had no update yet; call ema.update(num_images) before save")
        now = _time(num_images)
        if averages is None:
            raise InvalidArgument(f"averages are missing: give save(ema), or save({now}, mapping, profile=...)")
        if dtype not in get_args(StoredDtype):
            raise InvalidArgument(f"dtype {dtype!r} is unknown; allowed: {', '.join(get_args(StoredDtype))}")
        if isinstance(averages, PowerFunctionEMA):
            if profile is not None or buffers:
                raise InvalidArgument("profile and buffers are a PowerFunctionEMA's own; give them with a mapping only")
            if averages.num_images != now:
                raise InvalidArgument(
                    f"num_images {now} is not the time of the averages' last update, {averages.num_images}: "
                    "call save(averages) to save them at that time, or update them first"
                )
            due = [(p, averages.items(i), averages.sharded) for i, p in enumerate(profiles_of(averages))]
            copied = averages.buffers
        else:
            if profile is None:
                raise InvalidArgument("profile is missing: name the sigma_rel, or the phema.Profile, of this mapping")
            sharded = any(is_sharded(tensor) for tensor in averages.values())
            due = [(_profile(profile), iter(averages.items()), sharded)]
            copied = tuple(buffers)
        for wanted, _, _ in due:
            _check_weighting(wanted, now)
        # Copy everything before the first upload starts: the background thread would slow the copying down.
        files = [self._copied(now, p, dtype, copied, items, spread) for p, items, spread in due]
        for metadata, tensors in filter(None, files):
            self._check_same(metadata, tensors)
            self._submit(metadata, tensors)

    @property
    def counts(self) -> UploadCounts:
        """Counts so far: objects and bytes written, retries, seconds that `save` waited."""
        return UploadCounts() if self._uploader is None else self._uploader.counts

    def flush(self) -> None:
        """Wait until every saved snapshot is registered. Raises the error of a snapshot that failed."""
        if self._uploader is not None:
            self._uploader.flush()

    def finish(self) -> None:
        """Wait until every saved snapshot is registered, then end the run. It accepts no more snapshots."""
        self._check_open()
        self.flush()
        if self.run is not None:
            self._destination.finish()

    def close(self) -> None:
        """Wait until every saved snapshot is registered, then close the writer.

        The run stays open for a later training script. Raises the error of a snapshot that failed.
        """
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an exception, snapshots whose upload has not started are dropped."""
        if self._uploader is None or self._closed:
            return
        self._closed = True
        try:
            self._uploader.__exit__(kind, error, trace)
        finally:
            self._destination.close()

    def _copied(
        self,
        num_images: int,
        profile: Profile,
        dtype: StoredDtype,
        buffers: tuple[str, ...],
        items: Iterator[tuple[str, Tensor]],
        sharded: bool,
    ) -> tuple[SnapshotMetadata, dict[str, Tensor]] | None:
        """Metadata and tensors of a file, on the CPU; None if another process writes it or it is registered already."""
        writes = self.run is not None and (num_images, profile.key) not in self._known
        if not writes and not sharded:
            return None
        tensors = {}
        for name, tensor in items:
            full = whole(tensor)
            if writes:
                tensors[name] = _storable(name, full).detach().to("cpu", copy=True)
        if not writes or self.run is None:
            return None
        if not tensors:
            raise InvalidArgument("there are no tensors to save; give a state dict, name to tensor")
        unknown = sorted(set(buffers) - set(tensors))
        if unknown:
            raise InvalidArgument(f"buffers names {unknown[0]!r}, which is not among the {len(tensors)} tensors")
        metadata = SnapshotMetadata(
            run_id=self.run.id,
            num_images=num_images,
            profile=profile,
            dtype=dtype,
            buffers=buffers,
            code_version=version("phema"),
            config_hash=self.run.config_hash,
            config=self.run.config,
        )
        return metadata, tensors

    def _check_same(self, metadata: SnapshotMetadata, tensors: dict[str, Tensor]) -> None:
        """Raise InvalidArgument unless the tensors match those of the earlier snapshots."""
        found = {name: _layout_of(name, tensor, metadata) for name, tensor in tensors.items()}
        self._layouts = self._layouts or found
        if (differing := first_difference(found, self._layouts)) is not None:
            raise InvalidArgument(
                f"tensor {differing.name} is {differing.found}, in what was saved before it is {differing.expected}; "
                "snapshots of a run hold the same tensors and buffers"
            )

    def _submit(self, metadata: SnapshotMetadata, tensors: dict[str, Tensor]) -> None:
        assert self._uploader is not None, "a process that does not write has nothing to submit"
        probe = b""

        def produce() -> tuple[str, HashedBytes]:
            nonlocal probe
            _check_finite(tensors, metadata)
            data = encode(tensors, metadata, with_probe=self._destination.probes_in_files)
            probe = probe_of(data)
            content = HashedBytes(data)
            label = metadata.profile.label
            key = snapshot_key(metadata.run_id, num_images=metadata.num_images, label=label, sha256=content.sha256)
            return key, content

        self._uploader.submit(produce, lambda info: self._destination.register(metadata, info, probe))
        self._known.add((metadata.num_images, metadata.profile.key))

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument("the writer is closed; make another one to go on with the run")


def profiles_of(ema: PowerFunctionEMA) -> tuple[Profile, ...]:
    """The profile of each average of `ema`, in the order of the averages."""
    powers = [Profile.power(sigma_rel) for sigma_rel in ema.sigma_rels]
    exponentials = [
        Profile(kind="exponential", half_life_images=int(t.half_life_images), rampup_ratio=t.rampup_ratio)
        for t in ema.traditional
    ]
    return (*powers, *exponentials)


def _writes() -> bool:
    """Whether this process writes: rank 0, or not distributed."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _profile(given: Any) -> Profile:
    if isinstance(given, Profile):
        return given
    try:
        return Profile.model_validate(given) if isinstance(given, Mapping) else Profile.power(float(given))
    except ValidationError as error:
        raise InvalidArgument(f"profile {given!r} is none: {sentence(error.errors(include_url=False)[0])}") from error
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"profile {given!r} is neither a sigma_rel nor a phema.Profile: {error}") from error


def _check_weighting(profile: Profile, num_images: int) -> None:
    """Raise InvalidArgument if the profile is impossible at this time: its snapshot would break every plan."""
    try:
        weighting(profile, num_images)
    except WeightingError as error:
        raise InvalidArgument(f"profile cannot be one of {num_images} images: {error}") from error


def _check_finite(tensors: Mapping[str, Tensor], metadata: SnapshotMetadata) -> None:
    """Raise InvalidArgument if an averaged tensor holds NaN or an infinity."""
    for name, tensor in tensors.items():
        if name not in metadata.buffers and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InvalidArgument(
                f"tensor {name} at {metadata.num_images} images holds NaN or an infinity, which would spoil every "
                "reconstruction: the training has diverged"
            )


def _time(num_images: Any) -> int:
    try:
        now = operator.index(num_images)
    except TypeError as error:
        raise InvalidArgument(f"num_images {num_images!r} must be a whole number of images") from error
    if now < 1:
        raise InvalidArgument(f"num_images {now} must be at least 1: it counts the images seen since training began")
    return now


def _storable(name: str, tensor: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise InvalidArgument(f"{name} is a {type(tensor).__name__} and no tensor; save a state dict, name to tensor")
    if tensor.dtype not in DTYPE_NAMES:
        raise InvalidArgument(f"tensor {name} has dtype {tensor.dtype}, which a snapshot file cannot hold")
    return tensor


def _layout_of(name: str, tensor: Tensor, metadata: SnapshotMetadata) -> TensorLayout:
    averaged = name not in metadata.buffers and tensor.is_floating_point()
    return TensorLayout(tuple(tensor.shape), None if averaged else DTYPE_NAMES[tensor.dtype])


def _report_retry(error: Exception, delay_s: float) -> None:
    _log.warning("uploading a snapshot failed; retry in %.1f s: %s", delay_s, error)
