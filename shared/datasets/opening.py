"""Open a dataset from its name and path."""

from __future__ import annotations

from pathlib import Path

from phema.shared.datasets.dataset_checks import DatasetChoice, DatasetInfo, check_choice
from phema.shared.datasets.digits import load_digits
from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.files import Files, FolderFiles, LocalBlob
from phema.shared.datasets.files.remote_files import OpenRemote, RemoteBlob, RemoteFiles
from phema.shared.datasets.files.zip_files import ZipFiles
from phema.shared.datasets.pictures import Dataset
from phema.shared.datasets.stored_pictures import PictureReader, dataset_from_files, info_of

S3 = "s3://"


def open_dataset(choice: DatasetChoice, *, remote: OpenRemote | None = None) -> Dataset:
    """The chosen dataset, split into training and held-out pictures. `remote` opens s3:// URLs.

    Lists the files and reads the first picture; outside a zip also up to 16 pictures for the fingerprint. The other
    pictures are read by `batch`. Raises DatasetError, and what `remote` raises.
    """
    check_choice(choice)
    if choice.path is None:
        return load_digits(held_out=choice.held_out, max_images=choice.max_images)
    files = open_files(choice.path, remote=remote)
    dataset = dataset_from_files(files, choice.name, choice.held_out, choice.max_images)
    dataset.info.check_choice(choice)
    return dataset


def describe_dataset(path: str, name: str, *, remote: OpenRemote | None = None) -> DatasetInfo:
    """Size and shape of the dataset at this path or URL, under a name.

    Lists the files, and decodes up to 256 evenly spread pictures. Raises DatasetError, which names all of these that
    are broken, and what `remote` raises.
    """
    reader = PictureReader(open_files(path, remote=remote))
    if broken := reader.broken():
        raise DatasetError("; ".join(broken))
    return info_of(reader, name)


def open_files(path: str, *, remote: OpenRemote | None = None) -> Files:
    """The files in a folder or zip file, on this machine or behind s3://. Raises DatasetError."""
    if path.startswith(S3):
        if remote is None:
            raise DatasetError(f"dataset {path} lies behind S3, and this process was not told how to reach it")
        return _remote_files(path.rstrip("/"), remote)
    local = Path(path)
    try:
        if local.is_dir():
            return FolderFiles(local)
        if local.is_file():
            return ZipFiles(LocalBlob(local))
    except OSError as error:  # such as a parent folder that this user may not enter
        raise DatasetError(f"dataset {path} cannot be read on this machine: {error.strerror}") from error
    raise DatasetError(f"dataset {path} does not exist on this machine: it must be a folder or a zip file")


def _remote_files(url: str, remote: OpenRemote) -> Files:
    folder, _, name = url.rpartition("/")
    try:
        if url.lower().endswith(".zip") and folder != S3.rstrip("/"):
            return ZipFiles(RemoteBlob(remote(folder), name))
        return RemoteFiles(remote(url))
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"dataset {url} cannot be opened: {error}") from error
