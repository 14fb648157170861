"""The folder of a local store: where its files lie, and its errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phema.shared.snapshots.errors import ObjectMissing, StoreDenied, StoreFull, StoreUnreachable
from phema.shared.snapshots.stores.object_keys import check_key

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class StoreFolder:
    """A folder with one file per object, and two hidden folders that readers never see."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.url = self.root.as_uri()
        self.unfinished = self.root / ".tmp"
        """Files of writers that are at work, or were killed."""
        self.partial = self.root / ".partial"
        """Files of resumable writers, which a later writer may continue."""

    def path_of(self, key: str) -> Path:
        """The object's file. Raises ValueError for a malformed key."""
        return self.root / check_key(key)

    @contextmanager
    def errors(self, action: str, key: str = "") -> Iterator[None]:
        """Turn OSError into SnapshotError. Set `key` where it is an error that this object does not exist."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, action, key) from error

    def _translate(self, error: OSError, action: str, key: str) -> Exception:
        if key and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return ObjectMissing(f"object {key} does not exist in {self.url}")
        sentence = f"store {self.url} could not {action}: {error.strerror or error}"
        if error.errno in _FULL:
            return StoreFull(f"store {self.url} is full: it could not {action} ({error.strerror}); nothing was kept")
        return (StoreDenied if error.errno in _DENIED else StoreUnreachable)(sentence)
