"""The files that a reconstruction without a service writes: their names, and how they appear. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from phema.errors import InvalidArgument
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.local.durable_files import fsync_folder, make_folders
from phema.shared.snapshots.stores.local.store import LocalStore

SUFFIX = ".safetensors"


def output_paths(
    output: str | os.PathLike[str], run: str, num_images: int, profiles: Sequence[Profile], dtype: str
) -> list[Path]:
    """One path per profile: `output` itself if it ends with .safetensors, else names in that folder.

    The names are those of `phema reconstruct --output`. Raises InvalidArgument if several profiles shall go into one
    file.
    """
    path = Path(output).expanduser()
    if path.suffix == SUFFIX and not path.is_dir():
        if len(profiles) > 1:
            raise InvalidArgument(f"output {path} is one file and {len(profiles)} averages are wanted; name a folder")
        return [path.absolute()]
    ending = ("" if dtype == "float32" else f"-{dtype}") + SUFFIX
    labels = [p.label if p.sigma_rel is None else str(p.sigma_rel) for p in profiles]
    # Different profiles may have the same label.
    numbered = [label if labels.count(label) == 1 else f"{label}-{i}" for i, label in enumerate(labels)]
    return [path.absolute() / f"{run}-{num_images}-{label}{ending}" for label in numbered]


@dataclass
class StagedFiles:
    """A hidden store beside the targets. Its objects become the targets in one atomic step each."""

    store: ObjectStore
    keys: list[str]
    """One for each target, in order."""
    _folder: Path = field(repr=False)
    _targets: Sequence[Path] = field(repr=False)

    def publish(self) -> None:
        """Give every file its name. A file of that name is replaced. Durable when the call returns."""
        for key, target in zip(self.keys, self._targets, strict=True):
            os.replace(self._folder / key, target)
        fsync_folder(self._targets[0].parent)


@contextmanager
def staged(targets: Sequence[Path]) -> Iterator[StagedFiles]:
    """Where the files are written until they are complete: a hidden folder in the folder of the targets.

    An error leaves nothing behind; a killed process leaves the hidden folder, and no target. Raises InvalidArgument
    if the folder cannot be written.
    """
    parent = targets[0].parent
    try:
        make_folders(parent, Path(parent.anchor))
        temporary = TemporaryDirectory(prefix=".phema-", dir=parent)
    except OSError as error:
        raise InvalidArgument(f"output {targets[0]} cannot be written: {error.strerror or error}") from error
    with temporary as name:
        keys = [f"{number}{SUFFIX}" for number in range(len(targets))]
        yield StagedFiles(LocalStore(Path(name)), keys, Path(name), targets)
