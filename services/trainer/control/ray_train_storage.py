"""The folders where Ray Train keeps its own state.

phema resumes from its own checkpoints, so each start of a run's workers gets a new folder, which is deleted afterwards.
The folders of all drivers have no parent of their own. A driver that deleted an empty parent could delete the folder
that another driver creates at the same moment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow.fs

from phema.shared.settings import Settings

PREFIX = "ray-train"
_log = logging.getLogger(__name__)


def folder_name(job_id: str, fence: int, start: int) -> str:
    """The folder of an attempt's `start`-th start of its workers."""
    return f"{PREFIX}-{job_id}-a{fence}-{start}"


@dataclass(frozen=True)
class RayTrainStorage:
    """Where every worker can reach the folders: in the state folder, or in the bucket of an S3 store."""

    filesystem: pyarrow.fs.FileSystem
    path: str

    def remove(self, name: str) -> None:
        """Delete one folder, if it exists."""
        folder = f"{self.path}/{name}"
        if self.filesystem.get_file_info(folder).type != pyarrow.fs.FileType.NotFound:
            self.filesystem.delete_dir(folder)

    def remove_unused(self, job_id: str, fence: int, has_ended: Callable[[str], bool]) -> None:
        """Delete the folders that killed drivers left: of the job's attempts before `fence`, and of ended jobs.

        `has_ended` tells of another job's id whether that job has ended.
        """
        for entry in self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.path, allow_not_found=True)):
            attempt = re.fullmatch(rf"{PREFIX}-(.+)-a(\d+)-\d+", entry.base_name)
            if attempt is None:
                continue
            if int(attempt[2]) < fence if attempt[1] == job_id else has_ended(attempt[1]):
                self.remove(entry.base_name)

    @contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Delete a folder when the block ends, also after an error. If that fails, a later driver deletes it."""
        try:
            yield
        finally:
            try:
                self.remove(name)
            except OSError as error:
                _log.warning("folder %s of Ray Train is deleted later: %s", name, error)


def ray_train_storage(settings: Settings) -> RayTrainStorage:
    """Folders in the store's bucket for an S3 store, because the machines share no disk; else in the state folder.

    In S3, pyarrow leaves an empty object in place of the parent folder, the store's prefix.
    """
    store = urlsplit(settings.object_store_url)
    if store.scheme != "s3":
        folder = settings.state_dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return RayTrainStorage(pyarrow.fs.LocalFileSystem(), str(folder))
    secret = settings.s3_secret_access_key
    endpoint = urlsplit(settings.s3_endpoint_url or "")
    filesystem = pyarrow.fs.S3FileSystem(
        access_key=settings.s3_access_key_id,
        secret_key=secret.get_secret_value() if secret else None,
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        region=settings.s3_region,
    )
    prefix = store.path.strip("/")
    return RayTrainStorage(filesystem, "/".join(part for part in (store.netloc, prefix) if part))
