"""An uploaded object is hashed once with SHA-256, and once with MD5 where S3 compares it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from phema.shared.snapshots import ObjectExists, ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.background_uploader import BackgroundUploader
from phema.shared.snapshots.stores.hashed_bytes import HashedBytes
from phema.shared.snapshots.stores.local.store import LocalStore

MIB = 2**20


@pytest.fixture
def hashed_sizes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of bytes hashed so far, by algorithm."""
    sizes: Counter[str] = Counter()

    class Counting:
        def __init__(self, name: str, inner: Any) -> None:
            self._name, self._inner = name, inner

        def update(self, data: Any) -> None:
            sizes[self._name] += memoryview(data).nbytes
            self._inner.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def make(data: Any = b"", **options: Any) -> Counting:
            made = Counting(name, real(**options))
            made.update(data)
            return made

        return make

    for name in ("sha256", "md5"):
        monkeypatch.setattr(hashlib, name, counting(name, getattr(hashlib, name)))
    return sizes


@pytest.mark.parametrize("size", [3 * MIB, 33 * MIB])
def test_a_put_hashes_once(store: ObjectStore, size: int, hashed_sizes: Counter[str]) -> None:
    data = os.urandom(size)
    content = HashedBytes(data)
    assert store.put("a", content) == ObjectInfo("a", size, content.sha256)
    assert size <= hashed_sizes["sha256"] < size + 0.1 * MIB  # signatures of requests are hashes, too
    if isinstance(store, LocalStore):
        assert hashed_sizes["md5"] == 0
    else:
        assert size <= hashed_sizes["md5"] < size + 0.1 * MIB
    assert store.get("a") == data


@pytest.mark.parametrize("size", [3 * MIB, 12 * MIB])
def test_a_writer_hashes_once(store: ObjectStore, size: int, hashed_sizes: Counter[str]) -> None:
    with store.writer("a") as writer:
        writer.write(os.urandom(size))
    assert size <= hashed_sizes["sha256"] < size + 0.1 * MIB


def test_an_upload_that_is_retried_hashes_once(
    tmp_path_factory: pytest.TempPathFactory, hashed_sizes: Counter[str]
) -> None:
    obstacle = tmp_path_factory.mktemp("store") / "store"
    obstacle.write_text("a file where the store's folder should be")
    with BackgroundUploader(
        LocalStore(obstacle), first_delay_s=0.01, on_retry=lambda error, delay: obstacle.unlink(missing_ok=True)
    ) as uploader:
        uploader.submit(lambda: ("a", bytes(MIB)), lambda info: None)
    assert uploader.counts.retries == 1
    assert hashed_sizes["sha256"] == MIB


def test_the_known_hash_does_not_hide_other_bytes(store: ObjectStore) -> None:
    """The key is taken: what counts is what the store holds."""
    data = os.urandom(MIB)
    store.put("a", data)
    assert store.put("a", HashedBytes(data)).size == MIB
    with pytest.raises(ObjectExists, match="object a already exists"):
        store.put("a", HashedBytes(data[:-1] + bytes([data[-1] ^ 1])))
    assert store.get("a") == data


def test_bytes_that_are_hashed_cannot_be_changed_through_them() -> None:
    content = HashedBytes(bytearray(b"abc"))
    assert content.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert len(content) == 3
    with pytest.raises(TypeError):
        content.view[0] = 0
