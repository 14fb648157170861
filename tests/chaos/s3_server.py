"""ministack, which keeps objects in a folder, with one change: an object that the disk cannot hold is an error.

ministack itself only logs it, answers 200, and has forgotten the object after its next start. Servers that people run
answer 500 or 507. Run by its path, with ministack's environment variables.
"""

from __future__ import annotations

import os
from typing import Any

from ministack.services import s3

persist = s3._persist_object


def persist_or_fail(bucket: str, key: str, obj: Any) -> None:
    """Raises OSError, and forgets the object, unless its file and the description beside it are written."""
    persist(bucket, key, obj)
    path = s3._object_disk_path(bucket, key)
    if isinstance(obj, dict) and obj.get("body") is None and path is not None and os.path.isfile(path + ".meta.json"):
        return
    s3._buckets[bucket]["objects"].pop(key, None)
    s3._delete_persisted_object(bucket, key)
    raise OSError(f"{key} cannot be stored: the disk is full")


if __name__ == "__main__":
    from ministack.app import main

    s3._persist_object = persist_or_fail
    main()
