"""What every store does, on a local folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import phema.shared.snapshots
from phema.shared.snapshots import (
    CorruptObject,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    S3Options,
    SnapshotError,
    digest,
    open_store,
    verify,
)
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.s3.store import S3Store

MIB = 2**20
SIZES = [0, 1, 1000, 5 * MIB, 5 * MIB + 1, 33 * MIB + 7]
"""Around the parts of a streamed upload (5 MiB) and the size from which a put is split (32 MiB)."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(store: ObjectStore) -> list[str]:
    """What an unfinished write left where readers do not look."""
    if isinstance(store, LocalStore):
        return os.listdir(store.folder.unfinished) if store.folder.unfinished.exists() else []
    assert isinstance(store, S3Store)
    uploads = store.bucket.client.list_multipart_uploads(Bucket=store.bucket.name).get("Uploads", [])
    return [upload["Key"] for upload in uploads]


def spoil(store: ObjectStore, key: str, data: bytes) -> None:
    """Replace an object behind the store's back."""
    if isinstance(store, S3Store):
        store.bucket.client.put_object(**store.bucket.address(key), Body=data)
    else:
        path = store.local_path(key)
        assert path is not None
        path.write_bytes(data)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_comes_back(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    assert store.put("runs/r/a.bin", data) == ObjectInfo("runs/r/a.bin", size, sha256(data))
    assert store.get("runs/r/a.bin") == data
    found = store.head("runs/r/a.bin")
    assert found is not None
    assert (found.key, found.size) == ("runs/r/a.bin", size)
    assert found.sha256 in (None, sha256(data))
    assert [(info.key, info.size) for info in store.list()] == [("runs/r/a.bin", size)]
    assert digest(store, "runs/r/a.bin") == ObjectInfo("runs/r/a.bin", size, sha256(data))
    assert leftovers(store) == []


@pytest.mark.parametrize("size", [0, 1000, 5 * MIB, 11 * MIB + 3])
def test_a_writer_makes_the_same_object_from_pieces(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    with store.writer("a/pieces") as writer:
        for start in range(0, size, 700_001):
            writer.write(memoryview(data)[start : start + 700_001])
        assert store.head("a/pieces") is None
        assert list(store.list()) == []
    assert writer.info == ObjectInfo("a/pieces", size, sha256(data))
    assert store.get("a/pieces") == data
    assert leftovers(store) == []


@pytest.mark.parametrize("size", [1000, 12 * MIB])
def test_a_writer_that_fails_leaves_nothing(store: ObjectStore, size: int) -> None:
    def fail() -> None:
        with store.writer("a/b") as writer:
            writer.write(bytes(size))
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        fail()
    assert store.head("a/b") is None
    assert list(store.list()) == []
    assert leftovers(store) == []


@pytest.mark.parametrize("size", [100, 12 * MIB])
@pytest.mark.parametrize("how", ["put", "writer"])
def test_objects_are_written_once(store: ObjectStore, size: int, how: str) -> None:
    def write(data: bytes) -> ObjectInfo:
        if how == "put":
            return store.put("a/b", data)
        with store.writer("a/b") as writer:
            writer.write(data)
        return writer.info

    data = os.urandom(size)
    first = write(data)
    assert write(data) == first
    for other in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(ObjectExists, match="object a/b already exists"):
            write(other)
    assert store.get("a/b") == data
    assert leftovers(store) == []


def test_of_many_writers_of_one_key_one_wins(store: ObjectStore) -> None:
    contents = [bytes([i]) * 1000 for i in range(16)]

    def write(data: bytes) -> bytes | None:
        try:
            store.put("race", data)
        except ObjectExists:
            return None
        return data

    with ThreadPoolExecutor(16) as pool:
        winners = [data for data in pool.map(write, contents) if data is not None]
    assert winners == [store.get("race")]
    assert leftovers(store) == []


def test_ranges(store: ObjectStore) -> None:
    data = os.urandom(300_000)
    store.put("a", data)
    assert store.read_range("a", 0, 10) == data[:10]
    assert store.read_range("a", 299_990, 10) == data[-10:]
    assert store.read_range("a", 5, 0) == b""
    buffer = bytearray(200_000)
    store.read_into("a", 50_000, memoryview(buffer)[100:])
    assert buffer == bytes(100) + data[50_000 : 50_000 + 199_900]
    assert store.peek("a", 10) == (store.head("a"), data[:10])
    assert store.peek("a", 10**6) == (store.head("a"), data)


@pytest.mark.parametrize("start", [0, 299_999, 300_000, 400_000])
def test_a_read_past_the_end_names_key_and_sizes(store: ObjectStore, start: int) -> None:
    store.put("a/b", bytes(300_000))
    with pytest.raises(
        CorruptObject, match=rf"object a/b in .* holds 300000 bytes; bytes {start} to {start + 300_001}"
    ):
        store.read_range("a/b", start, 300_001)


def test_an_empty_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    info, first = store.peek("empty", 10)
    assert (info.size, first) == (0, b"")
    assert store.get("empty") == b""
    with pytest.raises(CorruptObject, match="holds 0 bytes; bytes 0 to 1"):
        store.read_range("empty", 0, 1)


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get("no/such"),
        lambda store: store.read_range("no/such", 0, 1),
        lambda store: store.peek("no/such", 1),
        lambda store: digest(store, "no/such"),
    ],
)
def test_a_missing_object(store: ObjectStore, read: Callable[[ObjectStore], object]) -> None:
    store.put("no/other", b"x")
    assert store.head("no/such") is None
    with pytest.raises(ObjectMissing, match="object no/such does not exist in"):
        read(store)


def test_delete_is_idempotent(store: ObjectStore) -> None:
    store.delete("a/b")
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.head("a/b") is None
    store.put("a/b", b"other")


def test_lists_are_in_the_order_of_keys(store: ObjectStore) -> None:
    keys = ["a+", "a-b", "a.b", "a/b", "a/b/c", "a/c", "a0", "aa", "b"]
    keys.remove("a/b/c")  # an object and a folder cannot share a name on disk
    for key in reversed(keys):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == keys
    assert [info.key for info in store.list("a/")] == ["a/b", "a/c"]
    assert [info.key for info in store.list("a")] == keys[:-1]
    assert [info.key for info in store.list("a/b")] == ["a/b"]
    assert [info.key for info in store.list("x/y")] == []


def test_objects_that_stand_for_folders_are_not_listed(store: ObjectStore) -> None:
    """Consoles and some servers make them."""
    if not isinstance(store, S3Store):
        pytest.skip("a local folder has real folders")
    for key in ("", "runs/"):
        bucket = store.bucket
        bucket.client.put_object(Bucket=bucket.name, Key=bucket.prefix + key or "folder/", Body=b"")
    store.put("runs/r/a.bin", b"a")
    assert [info.key for info in store.list()] == ["runs/r/a.bin"]
    assert [info.key for info in store.list("runs/")] == ["runs/r/a.bin"]


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".tmp/a", "a/.b", "a b", "a\n", "ä", "a" * 1001]
)
def test_keys_that_could_be_misread_are_refused(store: ObjectStore, key: str) -> None:
    for use in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="object key"):
            use()


def test_many_threads_read_at_once(store: ObjectStore) -> None:
    data = os.urandom(2 * MIB)
    store.put("a", data)

    def read(start: int) -> bool:
        return store.read_range("a", start, 65_536) == data[start : start + 65_536]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(0, 2 * MIB, 65_536)))


def test_verify_finds_what_changed(store: ObjectStore) -> None:
    data = os.urandom(5000)
    info = store.put("a", data)
    assert info.sha256 is not None
    verify(store, "a", size=info.size, sha256=info.sha256)
    spoil(store, "a", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptObject, match=f"object a in .* {info.sha256} was written"):
        verify(store, "a", size=info.size, sha256=info.sha256)
    spoil(store, "a", data[:-1])
    with pytest.raises(CorruptObject, match="holds 4999 bytes, 5000 were written"):
        verify(store, "a", size=info.size, sha256=info.sha256)


def test_check_accepts_a_usable_store(store: ObjectStore) -> None:
    store.check()
    assert list(store.list()) == []


def test_presigned_urls(store: ObjectStore) -> None:
    url = store.presigned_put("up/load", expires_s=60)
    if isinstance(store, LocalStore):
        assert url is None
        assert store.presigned_get("up/load", filename="x", expires_s=60) is None
        assert store.local_path("up/load") == store.root / "up" / "load"
        return
    assert url is not None
    assert store.local_path("up/load") is None
    assert httpx.put(url, content=b"hello").status_code == 200
    assert store.get("up/load") == b"hello"
    url = store.presigned_get("up/load", filename='we"ird.safetensors', expires_s=60)
    assert url is not None
    answer = httpx.get(url, headers={"Range": "bytes=1-3"})
    assert (answer.status_code, answer.content) == (206, b"ell")
    assert answer.headers["content-disposition"] == 'attachment; filename="we_ird.safetensors"'
    tampered = httpx.get(url.replace("up/load", "up/other"))
    assert tampered.status_code in (403, 404)


def test_urls_are_signed_for_the_public_endpoint(s3_options: tuple[str, S3Options]) -> None:
    url, options = s3_options
    public = S3Options(
        endpoint_url=options.endpoint_url,
        public_endpoint_url="https://bucket.example.org",
        access_key_id=options.access_key_id,
        secret_access_key=options.secret_access_key,
    )
    signed = open_store(url, s3=public).presigned_get("a", filename="a", expires_s=60)
    assert signed is not None
    assert signed.startswith("https://bucket.example.org/")


def test_store_urls() -> None:
    local = open_store("file:///tmp/some%20folder")
    assert local.local_path("a") == Path("/tmp/some folder").resolve() / "a"
    assert open_store("s3://bucket").url == "s3://bucket"
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"
    for wrong in ("", "/tmp/x", "file://host/x", "file:relative", "s3:///x", "http://x/y", "s3://bucket/a//b"):
        with pytest.raises(ValueError, match="must be"):
            open_store(wrong)


def test_public_names_are_listed() -> None:
    assert phema.shared.snapshots.__all__ == sorted(phema.shared.snapshots.__all__)
    public = {
        name
        for name, value in vars(phema.shared.snapshots).items()
        if getattr(value, "__module__", "").startswith("phema.")
    }
    assert set(phema.shared.snapshots.__all__) == public


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(S3Options(secret_access_key="hush"))


def test_every_error_is_a_snapshot_error_and_drawn_in_the_tree() -> None:
    tree = SnapshotError.__doc__ or ""
    assert all(child.__name__ in tree and child.__doc__ for child in SnapshotError.__subclasses__())
    assert len(SnapshotError.__subclasses__()) == tree.count("── ")
    assert ForeignFileRefused in SnapshotError.__subclasses__()
