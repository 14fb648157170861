"""The folder where Ray Train keeps its own state.

phema resumes from its own checkpoints, so each attempt gets a new folder, which is deleted afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow.fs

from phema.shared.settings import Settings

FOLDER = "ray-train"


@dataclass(frozen=True)
class RayTrainStorage:
    """A folder that every worker can reach: in the state folder, or in the bucket of an S3 store."""

    filesystem: pyarrow.fs.FileSystem
    path: str

    def remove(self, name: str) -> None:
        """Delete an attempt's folder if it exists, and the parent folder once it is empty."""
        self._delete(f"{self.path}/{name}")
        if not self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.path, allow_not_found=True)):
            self._delete(self.path)

    def _delete(self, folder: str) -> None:
        if self.filesystem.get_file_info(folder).type != pyarrow.fs.FileType.NotFound:
            self.filesystem.delete_dir(folder)


def ray_train_storage(settings: Settings) -> RayTrainStorage:
    """`ray-train/` in the store's bucket for an S3 store, because the machines share no disk; else in the state folder.

    In S3, pyarrow leaves an empty object in place of the parent folder, the store's prefix.
    """
    store = urlsplit(settings.object_store_url)
    if store.scheme != "s3":
        folder = settings.state_dir.resolve() / FOLDER
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
    return RayTrainStorage(filesystem, "/".join(part for part in (store.netloc, prefix, FOLDER) if part))
