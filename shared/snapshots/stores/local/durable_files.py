"""File operations that survive a crash of the process or the machine."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def create_locked_file(folder: Path) -> tuple[Path, int]:
    """A new file under an exclusive lock: its path and its open descriptor."""
    while True:
        path = folder / secrets.token_hex(16)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `remove_unlocked_files` may have locked and removed the file between the two steps: then take another.
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)


def remove_unlocked_files(folder: Path) -> None:
    """Remove the files that killed processes left. A lock ends with its process."""
    for entry in os.scandir(folder):
        try:
            descriptor = os.open(entry.path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(descriptor)


def link_exclusively(source: Path, target: Path) -> None:
    """Give a finished file the name `target`. Raises FileExistsError if the name is taken.

    The source keeps its old name too, except on file systems without hard links, where the file is renamed.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS or isinstance(error, FileExistsError):
            raise
        # A rename replaces an existing file. Between this test and the rename, only unique keys protect it.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)


def make_folders(folder: Path, root: Path) -> None:
    """Create `folder` and the missing folders above it, and make their names durable."""
    if folder.is_dir():
        return
    if folder != root:
        make_folders(folder.parent, root)
    with suppress(FileExistsError):
        folder.mkdir()
    fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names of the files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
