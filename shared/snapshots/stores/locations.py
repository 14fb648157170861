"""Where a user says that a store is: a path of this machine, or a URL. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

Location = str | os.PathLike[str]


def is_location(text: Location) -> bool:
    """Whether the text is a URL or a path, and not the name of a run: names hold no `/` and begin with a letter or
    digit."""
    if not isinstance(text, str):
        return True
    return "/" in text or os.sep in text or text.startswith((".", "~"))


def location_url(location: Location) -> str:
    """The store's URL: `file:///…` for a path, and every URL as it is."""
    text = os.fspath(location)
    return text if "://" in text else Path(text).expanduser().resolve().as_uri()


def last_part(location: Location) -> str:
    """The last folder of a path or URL: `mine` of `runs/mine/` and of `s3://bucket/mine`."""
    return unquote(location_url(location).rstrip("/").rpartition("/")[2])
