"""From a store's URL to the store. Torch-free; boto3 is imported only for `s3://` URLs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.options import S3Options


def open_store(url: str, *, s3: S3Options | None = None) -> ObjectStore:
    """The store at `file:///folder` or `s3://bucket[/prefix]`. Makes no request and no folder: `check()` does.

    Raises ValueError if the URL or an endpoint of `s3` is malformed.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from phema.shared.snapshots.stores.local.store import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from phema.shared.snapshots.stores.s3.store import S3Store

        return S3Store(parts.netloc, parts.path.strip("/"), s3 or S3Options())
    raise ValueError(f"store url {url!r} must be file:///folder or s3://bucket/prefix")
