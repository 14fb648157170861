"""Where `phema.SnapshotWriter` writes to: a run of a service, or a folder or bucket without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from phema.client.client import Client
from phema.client.response_models import Run
from phema.errors import InvalidArgument
from phema.extras import missing_packages
from phema.sdk.run_folders.folder_runs import open_run, store_at
from phema.sdk.run_folders.run_contents import ContentsReader
from phema.shared.recipes.run_config import hash_of_document
from phema.shared.settings import Settings
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.tensor_compatibility import TensorLayout
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.locations import Location
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.wiring import s3_from, store_from


@dataclass(frozen=True)
class RunDescription:
    """What a writer says of its run. See `SnapshotWriter`."""

    config: Mapping[str, Any]
    total_images: int | None
    origin: str


class SnapshotDestination(Protocol):
    """An open run and its store."""

    store: ObjectStore
    run: Run
    known: set[tuple[int, str]]
    """Time and key of the profile of every snapshot that the run has."""
    layouts: dict[str, TensorLayout]
    """Tensors of the run's snapshots, if they are known."""
    probes_in_files: bool
    """Whether each file carries the sample of its weights, because no catalog does."""

    def register(self, metadata: SnapshotMetadata, info: ObjectInfo, probe: bytes) -> None:
        """Make a stored snapshot part of the run."""

    def finish(self) -> None:
        """End the run."""

    def close(self) -> None:
        """Release connections."""


class ServiceDestination:
    """A run of a service, whose API registers the snapshots."""

    probes_in_files = False

    def __init__(
        self,
        run: str | Run,
        store: str | ObjectStore | None,
        client: Client | None,
        described: RunDescription,
    ) -> None:
        """Arguments as `SnapshotWriter`. Raises phema.PhemaError and SnapshotError."""
        self._client = Client() if client is None else client
        self._own_client = client is None
        self.layouts: dict[str, TensorLayout] = {}  # the API compares them
        try:
            self.store = _open(store)
            self.store.check()
            if isinstance(run, str):
                run = self._client.runs.open(
                    run, dict(described.config), origin=described.origin, total_images=described.total_images
                )
            if run.done:
                raise InvalidArgument(
                    f"run {run.name} has {run.state} and takes no more snapshots; open it again with "
                    f"`phema runs resume {run.name}`, or choose another name"
                )
            self.run = run
            snapshots = self._client.runs.snapshots(run.id)
            self.known = {(s.num_images, Profile.model_validate(s.profile).key) for s in snapshots}
        except BaseException:
            self.close()
            raise

    def register(self, metadata: SnapshotMetadata, info: ObjectInfo, probe: bytes) -> None:
        assert info.sha256 is not None, "a store that has just written an object knows its hash"
        self._client.runs.register_snapshot(
            metadata.run_id,
            num_images=metadata.num_images,
            profile=metadata.profile.model_dump(mode="json"),
            dtype=metadata.dtype,
            key=info.key,
            size=info.size,
            sha256=info.sha256,
            probe=probe,
        )

    def finish(self) -> None:
        self._client.runs.finish(self.run.id)

    def close(self) -> None:
        if self._own_client:
            self._client.close()


class FolderDestination:
    """A folder or bucket without a service. A snapshot is part of the run as soon as its file exists."""

    probes_in_files = True

    def __init__(
        self,
        location: Location,
        name: str | None,
        described: RunDescription,
    ) -> None:
        """Arguments as `SnapshotWriter`. Raises phema.PhemaError and SnapshotError."""
        self.store = store_at(location)
        opened = open_run(
            self.store,
            location,
            config=described.config,
            total_images=described.total_images,
            origin=described.origin,
            name=name,
        )
        reader = ContentsReader(self.store, opened.id)
        snapshots = reader.read().snapshots
        self.known = {(s.num_images, s.profile.key) for s in snapshots}
        self.layouts = dict(reader.layouts or {})
        seen = max((s.num_images for s in snapshots), default=0)
        self.run = Run(
            id=opened.id,
            name=opened.name,
            state="running",
            origin=opened.origin,
            num_images=seen,
            total_images=opened.total_images or max(seen, 1),
            config=opened.config,
            config_hash=hash_of_document(opened.config),
        )

    def register(self, metadata: SnapshotMetadata, info: ObjectInfo, probe: bytes) -> None:
        """Nothing is left to do: the file describes itself."""

    def finish(self) -> None:
        """Nothing: a folder accepts snapshots at any time."""

    def close(self) -> None:
        """Nothing is open."""


def _open(store: str | ObjectStore | None) -> ObjectStore:
    if store is not None and not isinstance(store, str):
        return store
    settings = Settings()
    try:
        return store_from(settings) if store is None else open_store(store, s3=s3_from(settings))
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    except ModuleNotFoundError as error:
        raise missing_packages(error) or error from error
