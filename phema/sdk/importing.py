"""Import snapshots of other programs as a run: `phema import`, and `phema.import_run` from Python."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phema.client.client import Client
from phema.client.reconstruction_requests import profile_of
from phema.client.response_models import Run
from phema.errors import InvalidArgument, NotFound
from phema.sdk.run_folders.folder_runs import NoRun
from phema.sdk.run_folders.opening import open as open_location
from phema.sdk.run_folders.stored_run import StoredRun
from phema.sdk.snapshot_writer import SnapshotWriter
from phema.shared.datasets import DATASETS, DatasetError, check_dataset
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.recipes.presets import PRESETS, UnknownPreset, network_preset
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT, DatasetConfig, RunConfig
from phema.shared.recipes.validation_errors import invalid
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.file_names import (
    ForeignSnapshot,
    averaged_folders,
    listed_files,
    matching_files,
    published_files,
)
from phema.shared.snapshots.foreign.published_pickles import read_published
from phema.shared.snapshots.foreign.weights import ForeignWeights, published_weights, state_dict_weights
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.locations import Location, is_location

PRESET = "imported"
"""Value of `preset` in the configuration of an imported run."""
_LARGEST_BATCH = 2048

Tensors = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""
Progress = Callable[[int, int, str], None]
"""Called with the number of files done, the number of files, and the name of the next file."""


def _ignore(done: int, total: int, detail: str) -> None:
    """Progress callback that does nothing."""


@dataclass(frozen=True)
class Imported:
    """Result of an import: the run, the number of files written, and of files that were imported before."""

    run: Run
    written: int
    known: int
    skipped: tuple[Path, ...] = ()
    """Files of time 0, which are not imported: they hold the weights before training."""


@dataclass(frozen=True)
class Source:
    """Files to import and how to read them. `network` is their common network; None if it is not known."""

    snapshots: tuple[ForeignSnapshot, ...]
    key: str | None = None
    network: NetworkConfig | None = None
    buffers: tuple[str, ...] = ()
    skipped: tuple[Path, ...] = ()
    """Files of time 0, which are not imported."""

    def weights(self, snapshot: ForeignSnapshot) -> ForeignWeights:
        """The tensors of one file. Raises ForeignFileRefused."""
        if snapshot.path.suffix == ".pkl":
            return published_weights(snapshot.path)
        return state_dict_weights(snapshot.path, key=self.key, network=self.network, buffers=self.buffers)


def open_source(
    folder: str | Path,
    *,
    mapping: str | Path | None = None,
    pattern: str | None = None,
    images_per_step: int | None = None,
    profile: Profile | Mapping[str, Any] | None = None,
    key: str | None = None,
    network: NetworkConfig | str | None = None,
    buffers: Sequence[str] = (),
    on_progress: Progress = _ignore,
) -> Source:
    """The files that `import_run` would import, with their times and profiles. Arguments as `import_run`.

    Checks every published pickle. Raises InvalidArgument with the reason if a file is refused.
    """
    folder = Path(folder)
    if mapping is not None and pattern is not None:
        raise InvalidArgument("mapping and pattern are both given; choose one of them to say times and profiles")
    if pattern is None and profile is not None:
        raise InvalidArgument("profile is that of the files that pattern matches; give pattern too, or mapping instead")
    if mapping is not None and images_per_step is not None:
        raise InvalidArgument("images_per_step has no meaning with mapping, which says num_images; leave it out")
    if images_per_step is not None and images_per_step < 1:
        raise InvalidArgument(f"images_per_step {images_per_step} must be at least 1")
    try:
        if mapping is not None:
            files = listed_files(folder, Path(mapping))
        elif pattern is not None:
            wanted = None if profile is None else profile_of("profile", profile)
            files = matching_files(folder, pattern, images_per_step=images_per_step, profile=wanted)
        elif images_per_step is not None:
            files = averaged_folders(folder, images_per_step)
        else:
            files = published_files(folder)
        chosen = _network_of(network) if isinstance(network, str) else network
        found = _common_network(files.snapshots, on_progress)
    except ForeignFileRefused as error:
        raise InvalidArgument(str(error)) from error
    except OSError as error:
        raise InvalidArgument(f"{error.filename} cannot be read: {error.strerror}") from error
    if found is not None and (chosen is not None or key is not None or buffers):
        raise InvalidArgument("network, key and buffers are for state dicts; published pickles say theirs themselves")
    return Source(files.snapshots, key, found or chosen, tuple(buffers), files.skipped)


def import_run(
    folder: str | Path,
    name: str,
    *,
    mapping: str | Path | None = None,
    pattern: str | None = None,
    images_per_step: int | None = None,
    profile: Profile | Mapping[str, Any] | None = None,
    key: str | None = None,
    network: NetworkConfig | str | None = None,
    buffers: Sequence[str] = (),
    dataset: str | None = None,
    held_out: int | None = None,
    vae: str | None = None,
    client: Client | None = None,
    store: str | ObjectStore | None = None,
    on_progress: Progress = _ignore,
) -> Imported:
    """Import the files of a folder as snapshots of run `name`.

    `name` is the name of a run of a service; or a folder or bucket, as for `phema.SnapshotWriter`, without a service.

    Without `mapping`, `pattern` and `images_per_step`, the folder holds network pickles in EDM2's published format.
    `mapping` is a JSON file, a list of objects with `file`, `num_images` and `profile`. `pattern` is a regular
    expression for the names of files and folders, with named groups; `images_per_step` turns its group `step` into a
    time, and `profile` is that of all files if no group says it. `images_per_step` alone imports the folders of
    diffusers' `EMAModel`.

    State dicts are safetensors files, checkpoints that torch loads with `weights_only`, or folders of
    `torch.distributed.checkpoint`. `key` is the key of the state dict in a checkpoint. `network` is a NetworkConfig, a
    preset's name or a JSON file; without one, the run can be reconstructed but not sampled. `buffers` are shell
    patterns of tensors that are not averaged.

    `dataset` ("digits", or a folder, zip file or s3:// URL), `held_out` and `vae` describe the dataset that evaluations
    compare with. `store` and `client` are those of `phema.SnapshotWriter`. A repeated import writes only missing files.
    Files whose name says 0 images hold the weights before training; they are skipped, and listed in the result.

    Raises InvalidArgument if a file is refused, and the errors of SnapshotWriter.
    """
    source = open_source(
        folder,
        mapping=mapping,
        pattern=pattern,
        images_per_step=images_per_step,
        profile=profile,
        key=key,
        network=network,
        buffers=buffers,
    )
    chosen = choose_dataset(source.network, dataset, held_out, vae)
    if is_location(name):
        if client is not None or store is not None:
            raise InvalidArgument(f"store and client belong to a service; {name} is a folder or bucket without one")
        return import_into(source, name, chosen, on_progress=on_progress)
    if client is not None:
        return import_source(source, name, chosen, client, store=store, on_progress=on_progress)
    with Client() as opened:
        return import_source(source, name, chosen, opened, store=store, on_progress=on_progress)


def import_source(
    source: Source,
    name: str,
    dataset: DatasetConfig | None,
    client: Client,
    *,
    store: str | ObjectStore | None = None,
    on_progress: Progress = _ignore,
) -> Imported:
    """Import the files of an open source. Arguments as `import_run`."""
    total = len(source.snapshots)
    if source.snapshots and source.snapshots[0].path.suffix != ".pkl":
        _read(source, source.snapshots[0])  # before the run opens: if the first file is refused, no run stays behind
    try:
        before = client.runs.get(name)
    except NotFound:
        before = None
    config = _config(before, name, source, dataset)
    run = client.runs.open(name, config, origin="imported")
    known = {(s.num_images, Profile.model_validate(s.profile).key) for s in client.runs.snapshots(run.id)}
    missing = [s for s in source.snapshots if (s.num_images, s.profile.key) not in known]
    done = total - len(missing)
    on_progress(done, total, "")
    if missing:
        if run.done:
            run = client.runs.resume(run.id)
        # One pending file is enough: the next one is read meanwhile, and each may have gigabytes.
        with SnapshotWriter(run, store, client=client, max_pending=1) as writer:
            _write_all(writer, source, missing, on_progress)
    on_progress(total, total, "")
    run = client.runs.get(run.id)
    finished = run if run.done else client.runs.finish(run.id)
    return Imported(finished, len(missing), total - len(missing), source.skipped)


def import_into(
    source: Source, location: Location, dataset: DatasetConfig | None = None, *, on_progress: Progress = _ignore
) -> Imported:
    """Import the files of an open source into a folder or bucket, without a service. Arguments as `import_run`."""
    _read(source, source.snapshots[0])  # before the folder is made
    before: StoredRun | None
    try:
        before = open_location(location)
        known = {(s.num_images, s.profile.key) for s in before.snapshots()}
    except NoRun:
        before, known = None, set()
    config = _config(before, str(location), source, dataset)
    missing = [s for s in source.snapshots if (s.num_images, s.profile.key) not in known]
    with SnapshotWriter(location, config=config, origin="imported", max_pending=1) as writer:
        assert writer.run is not None, "one process imports"
        _write_all(writer, source, missing, on_progress)
    total = len(source.snapshots)
    on_progress(total, total, "")
    return Imported(writer.run, len(missing), total - len(missing), source.skipped)


def _write_all(
    writer: SnapshotWriter, source: Source, missing: Sequence[ForeignSnapshot], on_progress: Progress
) -> None:
    total = len(source.snapshots)
    done = total - len(missing)
    first: Tensors | None = None
    if missing and done and source.network is None:  # the tensors of a known network need no comparison
        there = next(s for s in source.snapshots if s not in missing)
        first = _tensors(_read(source, there))
    for snapshot in missing:
        on_progress(done, total, snapshot.path.name)
        first = _write(writer, source, snapshot, first)
        done += 1
    writer.flush()


def _read(source: Source, snapshot: ForeignSnapshot) -> ForeignWeights:
    try:
        return source.weights(snapshot)
    except ForeignFileRefused as error:
        raise InvalidArgument(str(error)) from error
    except OSError as error:
        raise InvalidArgument(f"{snapshot.path} cannot be read: {error.strerror}") from error


def _write(writer: SnapshotWriter, source: Source, snapshot: ForeignSnapshot, first: Tensors | None) -> Tensors:
    """Write one file and return the shapes of its tensors, which must be `first` unless that is None."""
    weights = _read(source, snapshot)
    found = _tensors(weights)
    if first is not None and found != first:
        differing = min(name for name in found.keys() | first.keys() if found.get(name) != first.get(name))
        raise InvalidArgument(
            f"{snapshot.path} has other tensors than the files before it: {differing!r} has the shape "
            f"{found.get(differing, 'none')}, not {first.get(differing, 'none')}; one folder is one run"
        )
    writer.save(
        snapshot.num_images,
        weights.tensors,
        profile=snapshot.profile,
        dtype=weights.dtype,
        buffers=weights.buffers,
    )
    return found


def _tensors(weights: ForeignWeights) -> Tensors:
    return {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}


def _common_network(snapshots: Sequence[ForeignSnapshot], on_progress: Progress) -> NetworkConfig | None:
    """The network of the pickles; None without pickles. Raises InvalidArgument unless all have the same network."""
    pickles = [snapshot.path for snapshot in snapshots if snapshot.path.suffix == ".pkl"]
    if not pickles:
        return None
    if len(pickles) < len(snapshots):
        raise InvalidArgument(f"{pickles[0]} is a pickle and other files are state dicts; one folder is one run")
    network = read_published(pickles[0]).config
    for done, path in enumerate(pickles):
        on_progress(done, len(pickles), path.name)
        other = read_published(path).config
        for field in NetworkConfig.model_fields:
            if getattr(other, field) != getattr(network, field):
                raise InvalidArgument(
                    f"{path} has another network than {pickles[0].name}: {field} is {getattr(other, field)}, not "
                    f"{getattr(network, field)}; one folder is one run"
                )
    on_progress(len(pickles), len(pickles), "")
    return network


def _network_of(text: str) -> NetworkConfig:
    """The network of a preset or a JSON file. Raises InvalidArgument, OSError."""
    if text in PRESETS or not text.endswith(".json"):
        try:
            return network_preset(text)
        except UnknownPreset as error:
            raise InvalidArgument(f"network: {error}; or give a JSON file") from error
    try:
        return NetworkConfig.model_validate_json(Path(text).read_bytes())
    except ValidationError as error:
        raise InvalidArgument(f"network {text}: {invalid(error)}") from error


def choose_dataset(
    network: NetworkConfig | None, dataset: str | None, held_out: int | None, vae: str | None
) -> DatasetConfig | None:
    """The dataset that evaluations compare with; None if none is given. Raises InvalidArgument."""
    if dataset is None:
        if held_out is not None or vae is not None:
            raise InvalidArgument("held_out and vae say something of a dataset; give dataset too")
        return None
    if network is None:
        raise InvalidArgument(f"dataset {dataset} is of no use without a network: give network, or leave it out")
    if dataset in DATASETS:
        chosen = DatasetConfig(name=dataset, held_out=DatasetConfig().held_out if held_out is None else held_out)
    else:
        path = dataset if "://" in dataset else str(Path(dataset).absolute())
        chosen = DatasetConfig(name=PRESET, path=path, held_out=held_out or 0, vae=vae)
    try:
        check_dataset(chosen, network)
    except DatasetError as error:
        raise InvalidArgument(str(error)) from error
    return chosen


def _config(before: Run | StoredRun | None, name: str, source: Source, dataset: DatasetConfig | None) -> dict[str, Any]:
    """The configuration of the imported run; `before` is the run of that name or place, if there is one.

    A repeated import of the same network keeps the configuration of the first one, which may have had fewer files.
    Fields of the training that the files do not show have their defaults.
    """
    if source.network is None:
        # The hash ensures that later imports into this run have the same tensors.
        weights = _read(source, source.snapshots[0])
        described = json.dumps([sorted(_tensors(weights).items()), sorted(weights.buffers)])
        return {"preset": PRESET, "tensors": hashlib.sha256(described.encode()).hexdigest()}
    config = _run_config(source, dataset)
    if before is None:
        return config
    same = all(before.config.get(field) == config[field] for field in ("preset", "network"))
    if before.origin != "imported" or not same:
        return config
    if dataset is not None and before.config.get("dataset") != config["dataset"]:
        raise InvalidArgument(
            f"dataset is not that with which run {name} was imported, and part of its configuration, which its "
            "snapshots name; leave it out, or import under another name"
        )
    return before.config


def _run_config(source: Source, dataset: DatasetConfig | None) -> dict[str, Any]:
    times = sorted({snapshot.num_images for snapshot in source.snapshots})
    interval = math.gcd(*times)
    batch = math.gcd(interval, _LARGEST_BATCH)
    widths = {snapshot.profile.sigma_rel for snapshot in source.snapshots}
    tracked = sorted(width for width in widths if width is not None and width < SIGMA_REL_LIMIT)
    config = RunConfig.model_validate(
        {
            "preset": PRESET,
            "network": source.network,
            "dataset": dataset or DatasetConfig(name=PRESET, held_out=0),
            "total_images": times[-1],
            "batch_size": batch,
            "snapshot_every": interval,
            **({"ema_sigma_rels": tracked} if tracked else {}),
        }
    )
    document: dict[str, Any] = json.loads(config.canonical_json())
    return document
